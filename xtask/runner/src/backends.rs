//! The backends that were compiled in: a line for each feature.

use consort_conformance::suite::Candidate;

/// `"feature" => || open;`, or `"feature" threads => |threads| open;` for a backend that takes a number of threads.
macro_rules! candidates {
    ($( $name:literal $($threads:ident)? => $open:expr; )*) => {
        pub(crate) fn compiled() -> Vec<Candidate> {
            vec![$( #[cfg(feature = $name)] candidates!(@one $name $($threads)? => $open), )*]
        }
    };
    (@one $name:literal => $open:expr) => { Candidate::new($name, $open) };
    (@one $name:literal threads => $open:expr) => { Candidate::with_threads($name, $open) };
}

candidates! {
    "scalar" => || Ok(consort_scalar::Single::new());
    "template" => || Ok(consort_template::Template::new());
}
