//! The backend as a candidate of the conformance suite.

use consort_conformance::{bounds::Profile, suite::Candidate};
use consort_core::Compute;
use consort_simd::{Level, Simd};

/// On the instruction set of this name, or on the one that `CONSORT_SIMD` names, or on the best.
pub(crate) fn candidate(level: Option<&'static str>) -> Candidate {
    let open = move |threads: Option<usize>| match (level, threads) {
        (Some(level), threads) => Level::named(level).map(|level| Simd::new(level, threads.unwrap_or(2))),
        (None, Some(threads)) => Simd::with_threads(threads),
        (None, None) => Simd::open(),
    };
    // `vdpbf16ps` takes denormals for zero, coming in and going out.
    let flushing = Profile { name: "ieee, denormals flushed".into(), flush_denormals: true, ..Profile::ieee() };
    Candidate::with_threads("simd", move |threads| open(threads).map_err(|error| error.to_string()))
        .profile_in(Compute::BF16, flushing)
}
