//! The backends that were compiled in: the list here, a feature for each and an optional dependency in Cargo.toml.

use crate::{
    Error,
    bench::{Limits, read_bandwidth},
    model::LoadOptions,
    runner::Runner,
    source::Source,
};

/// A backend and whether it works here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendInfo {
    /// What `--backend` takes, and the cargo feature.
    pub name: &'static str,
    /// One line about it.
    pub description: &'static str,
    /// Types that weights can be kept in.
    pub dtypes: &'static [&'static str],
    /// What products can be computed in; whatever a backend has no products of its own for is composed.
    pub computes: &'static [&'static str],
}

/// Puts a model on a backend.
pub(crate) type Load = fn(&Source<'_>, LoadOptions<'_>) -> Result<Box<dyn Runner>, Error>;

/// Measures what a number of threads can do at most.
pub(crate) type Measure = fn(usize) -> Limits;

/// A backend of this build.
pub(crate) struct Entry {
    pub(crate) info: BackendInfo,
    /// Puts a model on it.
    pub(crate) load: Load,
    /// Whether it takes a number of threads.
    pub(crate) threads: bool,
    /// What it could do at most; `None` where it does not measure that.
    pub(crate) limits: Option<Measure>,
}

/// Makes [`entries`] of lines `"feature" [weight types] [types to compute in] "description" => load;`. One that takes a
/// number of threads, which is in the options, has `threads` behind its feature; one that measures limits ends
/// `=> load, limits;`.
macro_rules! backends {
    ($($feature:literal $($threads:ident)? [$($dtype:literal),*] [$($compute:literal),*] $description:literal
        => $load:expr $(, $limits:expr)?;)*) => {
        fn entries() -> Vec<Entry> {
            vec![$(
                #[cfg(feature = $feature)]
                Entry {
                    info: BackendInfo {
                        name: $feature,
                        description: $description,
                        dtypes: &[$($dtype),*],
                        computes: &[$($compute),*],
                    },
                    load: $load,
                    threads: backends!(@threads $($threads)?),
                    limits: backends!(@limits $($limits)?),
                },
            )*]
        }
    };
    (@threads) => { false };
    (@threads threads) => { true };
    (@limits) => { None };
    (@limits $limits:expr) => { Some($limits) };
}

// Fastest first. `cargo xtask new-backend` adds a line at the end.
backends! {
    "simd" threads
        ["f32", "bf16", "f16", "q8_0", "q6_k", "q5_k", "q4_k", "q3_k", "q2_k", "q5_1", "q5_0", "q4_1", "q4_0"]
        ["f32", "bf16", "int8"]
        "all cores, with the instructions found at run time" => simd, simd_limits;
    "scalar"
        ["f32", "bf16", "f16", "q8_0", "q6_k", "q5_k", "q4_k", "q3_k", "q2_k", "q5_1", "q5_0", "q4_1", "q4_0", "f64"]
        ["f32", "bf16", "int8"]
        "reference on one core: f32, or f64 as the oracle; exact and slow" => scalar;
}

#[cfg(feature = "simd")]
fn simd(model: &Source<'_>, options: LoadOptions<'_>) -> Result<Box<dyn Runner>, Error> {
    let threads = options.threads.unwrap_or_else(processors);
    let backend = consort_simd::Simd::with_threads(threads).map_err(|error| Error::Choice(error.to_string()))?;
    model.load_on(backend, options)
}

#[cfg(feature = "simd")]
fn simd_limits(threads: usize) -> Limits {
    let Ok(backend) = consort_simd::Simd::with_threads(threads) else { return Limits::default() };
    let consort_simd::Limits { read, f32, bf16, int8 } = consort_simd::limits(backend.level(), threads);
    Limits { read, f32: Some(f32), bf16, int8 }
}

#[cfg(feature = "scalar")]
fn scalar(model: &Source<'_>, options: LoadOptions<'_>) -> Result<Box<dyn Runner>, Error> {
    match options.dtype.as_deref() {
        Some("f64") => model.load_on(consort_scalar::Oracle::new(), options),
        _ => model.load_on(consort_scalar::Single::new(), options),
    }
}

/// The backends compiled in, fastest first: without a choice, the first is taken.
pub fn compiled() -> Vec<BackendInfo> {
    entries().into_iter().map(|entry| entry.info).collect()
}

/// The backend called `name`; without a name the fastest one, or the fastest that can keep weights as `dtype`, if one
/// can.
///
/// # Errors
/// [`Error::Choice`] when it is not compiled in, with what is.
pub fn choose(name: Option<&str>, dtype: Option<&str>) -> Result<BackendInfo, Error> {
    find(name, dtype).map(|entry| entry.info)
}

/// What this machine can do at most with the backend's instructions, on so many threads or all; takes a second and a
/// gibibyte.
///
/// # Errors
/// [`Error::Choice`] when the backend is not compiled in.
pub fn limits(name: &str, threads: Option<usize>) -> Result<Limits, Error> {
    let entry = find(Some(name), None)?;
    let threads = self::threads(name, threads)?.unwrap_or_else(processors);
    let own = entry.limits.map_or_else(Limits::default, |measure| measure(threads));
    Ok(Limits { read: own.read.or_else(|| read_bandwidth(threads)), ..own })
}

/// Threads that the backend uses when it is asked for so many, or for all; `None` of one that takes no number.
///
/// # Errors
/// [`Error::Choice`] when it is not compiled in.
pub fn threads(name: &str, asked: Option<usize>) -> Result<Option<usize>, Error> {
    Ok(find(Some(name), None)?.threads.then(|| asked.unwrap_or_else(processors)))
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// As [`choose`], with the way to load a model.
pub(crate) fn find(name: Option<&str>, dtype: Option<&str>) -> Result<Entry, Error> {
    let names: Vec<&str> = compiled().iter().map(|backend| backend.name).collect();
    let keeps =
        |entry: &Entry| dtype.is_none_or(|dtype| entry.info.dtypes.iter().any(|of| of.eq_ignore_ascii_case(dtype)));
    let entries = entries();
    let fastest = entries.iter().position(keeps).unwrap_or(0);
    let mut entries = entries.into_iter();
    match name {
        Some(name) => entries.find(|entry| entry.info.name == name).ok_or_else(|| {
            let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            Error::Choice(format!("backend '{name}' is not in this build (in it: {known})"))
        }),
        None => entries.nth(fastest).ok_or_else(|| {
            Error::Choice(
                "no backend is in this build: build with a feature that has one, `--features simd`".to_owned(),
            )
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_in_the_build_is_named() {
        let error = choose(Some("abacus"), None).expect_err("there is no such backend").to_string();
        assert!(error.contains("'abacus' is not in this build"), "{error}");
        for backend in compiled() {
            assert!(error.contains(backend.name), "{error}");
            assert_eq!(choose(Some(backend.name), None).ok(), Some(backend));
        }
    }

    #[test]
    fn without_a_name_one_that_can_is_taken() {
        for backend in compiled() {
            for dtype in backend.dtypes {
                let chosen = choose(None, Some(&dtype.to_ascii_uppercase())).expect("one is there");
                assert!(chosen.dtypes.contains(dtype), "{dtype}: {}", chosen.name);
            }
        }
        assert_eq!(choose(None, Some("q9")).ok(), compiled().into_iter().next());
    }

    #[test]
    fn without_a_name_the_first_is_taken_or_a_feature_is_named() {
        match (choose(None, None), compiled().into_iter().next()) {
            (Ok(chosen), Some(first)) => assert_eq!(chosen, first),
            (Err(error), None) => assert!(error.to_string().contains("--features simd"), "{error}"),
            (chosen, first) => panic!("{chosen:?}, expected {first:?}"),
        }
    }
}
