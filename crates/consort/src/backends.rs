//! The backends that were compiled in.

/// A backend and whether it works here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendInfo {
    /// What `--backend` takes, and the cargo feature.
    pub name: &'static str,
    /// One line about it.
    pub description: &'static str,
    /// Types that weights can be kept in.
    pub dtypes: &'static [&'static str],
}

/// The backends compiled in, fastest first: without a choice, the first is taken.
pub fn compiled() -> Vec<BackendInfo> {
    vec![
        #[cfg(feature = "scalar")]
        BackendInfo {
            name: "scalar",
            description: "reference on one core: f32, or f64 as the oracle; exact and slow",
            dtypes: &["f32", "bf16", "f16", "f64"],
        },
    ]
}

/// The backend called `name`, or the fastest one.
///
/// # Errors
/// [`Error::Choice`](crate::Error::Choice) when it is not compiled in, with what is.
pub fn choose(name: Option<&str>) -> Result<BackendInfo, crate::Error> {
    let compiled = compiled();
    let names: Vec<&str> = compiled.iter().map(|backend| backend.name).collect();
    match name {
        Some(name) => compiled.iter().find(|backend| backend.name == name).cloned().ok_or_else(|| {
            let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            crate::Error::Choice(format!("backend '{name}' is not in this build (in it: {known})"))
        }),
        None => compiled.first().cloned().ok_or_else(|| {
            crate::Error::Choice(
                "no backend is in this build: build with a feature that has one, `--features scalar`".to_owned(),
            )
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_in_the_build_is_named() {
        let error = choose(Some("abacus")).expect_err("there is no such backend").to_string();
        assert!(error.contains("'abacus' is not in this build"), "{error}");
        for backend in compiled() {
            assert!(error.contains(backend.name), "{error}");
            assert_eq!(choose(Some(backend.name)).ok(), Some(backend));
        }
    }

    #[test]
    fn without_a_name_the_first_is_taken_or_a_feature_is_named() {
        match (choose(None), compiled().into_iter().next()) {
            (Ok(chosen), Some(first)) => assert_eq!(chosen, first),
            (Err(error), None) => assert!(error.to_string().contains("--features scalar"), "{error}"),
            (chosen, first) => panic!("{chosen:?}, expected {first:?}"),
        }
    }
}
