//! The backends that were compiled in: a line for each feature.

use consort_conformance::suite::Candidate;

/// `"feature" => || open;`, `"feature" threads => |threads| open;` for a backend that takes a number of threads, or
/// `"feature" candidate => candidate;` where there is more to say.
macro_rules! candidates {
    ($( $name:literal $($threads:ident)? => $open:expr; )*) => {
        pub(crate) fn compiled() -> Vec<Candidate> {
            vec![$( #[cfg(feature = $name)] candidates!(@one $name $($threads)? => $open), )*]
        }
    };
    (@one $name:literal => $open:expr) => { Candidate::new($name, $open) };
    (@one $name:literal candidate => $candidate:expr) => { $candidate };
    (@one $name:literal threads => $open:expr) => { Candidate::with_threads($name, $open) };
}

candidates! {
    "simd" candidate => simd();
    "scalar" => || Ok(consort_scalar::Single::new());
    "template" => || Ok(consort_template::Template::new());
}

#[cfg(feature = "simd")]
fn simd() -> Candidate {
    use consort_conformance::bounds::Profile;
    use consort_core::Compute;
    use consort_simd::Simd;

    let open = |threads: Option<usize>| threads.map_or_else(Simd::open, Simd::with_threads);
    // `vdpbf16ps` takes denormals for zero, coming in and going out.
    let flushing = Profile { name: "ieee, denormals flushed".into(), flush_denormals: true, ..Profile::ieee() };
    Candidate::with_threads("simd", move |threads| open(threads).map_err(|error| error.to_string()))
        .profile_in(Compute::BF16, flushing)
}
