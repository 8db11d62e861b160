//! Numbers in JSON: what is not finite is written as text (`"NaN"`, `"inf"`), never as `null`, which hides it.

use std::fmt;

use serde::{Deserializer, Serializer, de};

pub(crate) fn one<S: Serializer>(value: &f64, to: S) -> Result<S::Ok, S::Error> {
    if value.is_finite() { to.serialize_f64(*value) } else { to.collect_str(value) }
}

pub(crate) fn optional<S: Serializer>(value: &Option<f64>, to: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => one(value, to),
        None => to.serialize_none(),
    }
}

/// The way back of [`one`].
pub(crate) fn read<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    struct Number;

    impl de::Visitor<'_> for Number {
        type Value = f64;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a number, or one that is not finite as text")
        }

        fn visit_f64<E>(self, value: f64) -> Result<f64, E> {
            Ok(value)
        }

        fn visit_u64<E>(self, value: u64) -> Result<f64, E> {
            Ok(value as f64)
        }

        fn visit_i64<E>(self, value: i64) -> Result<f64, E> {
            Ok(value as f64)
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<f64, E> {
            text.parse().map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
        }
    }

    from.deserialize_any(Number)
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
