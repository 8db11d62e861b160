//! Numbers in JSON: what is not finite is written as text (`"NaN"`, `"inf"`), never as `null`, which hides it.

use serde::Serializer;

pub(crate) fn one<S: Serializer>(value: &f64, to: S) -> Result<S::Ok, S::Error> {
    if value.is_finite() { to.serialize_f64(*value) } else { to.collect_str(value) }
}

pub(crate) fn optional<S: Serializer>(value: &Option<f64>, to: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => one(value, to),
        None => to.serialize_none(),
    }
}

pub(crate) fn many<S: Serializer>(values: &[f64], to: S) -> Result<S::Ok, S::Error> {
    struct Number(f64);

    impl serde::Serialize for Number {
        fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
            one(&self.0, to)
        }
    }

    to.collect_seq(values.iter().map(|value| Number(*value)))
}
