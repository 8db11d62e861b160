//! Problems from small descriptions: an operation, sizes, attributes, how the operands are filled and laid out, and a seed.
//!
//! A recipe is one line of JSON, so that a failure is replayed by pasting it; what it stands for may be megabytes. Numbers
//! are drawn by counter (Philox, key = seed, stream = operand): they depend on nothing else, use no function that differs
//! between machines, and are rounded to f32, so that every backend and the oracle begin with the same values.
//!
//! ```
//! use consort_conformance::recipe::Recipe;
//!
//! let recipe: Recipe = r#"{"op":"softmax","dims":{"x0":2,"x1":33},"fill":"wide","seed":7}"#.parse()?;
//! let problem = recipe.problem()?;
//! assert_eq!(problem.operands.len(), 1);
//! # Ok::<(), consort_conformance::Error>(())
//! ```

use std::{collections::BTreeMap, fmt, str::FromStr};

use consort_core::{DType, WeightDType};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{error::Error, problem::Problem, recipes};

/// A small description that stands for a [`Problem`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Snake-case name, as in docs/case-format.md.
    pub op: String,
    /// Asks for gradients of every operand that has one, from random cotangents.
    #[serde(default, skip_serializing_if = "is_default")]
    pub backward: bool,
    /// Sizes by name. An operand of any rank has its sizes as `x0`, `x1`, …
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub dims: BTreeMap<String, usize>,
    /// Attributes, as in docs/case-format.md.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub attributes: Map<String, Value>,
    /// Optional operands that are left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub absent: Vec<String>,
    /// What the operands hold.
    #[serde(default, skip_serializing_if = "is_default")]
    pub fill: Fill,
    /// How the operands lie in their buffers.
    #[serde(default, skip_serializing_if = "is_default")]
    pub view: View,
    /// What a weight is kept as.
    #[serde(default = "single", skip_serializing_if = "is_single")]
    pub weight_dtype: WeightDType,
    /// Type of operands that may be of any type; what the backend computes in if there is none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub dtype: Option<DType>,
    /// Key of the draws.
    #[serde(default, skip_serializing_if = "is_default")]
    pub seed: u64,
}

/// What operands hold. Operations take of it what makes sense for them: logarithms are of positive numbers whatever is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fill {
    /// Independent draws around 0 of variance 1.
    #[default]
    Normal,
    /// Normal draws, as great as the operation can take without overflow.
    Large,
    /// Normal draws of a magnitude whose squares are no normal numbers.
    Small,
    /// Above 1/16.
    Positive,
    /// Below −1/16: a maximum that begins at 0 shows.
    Negative,
    /// One value.
    Constant,
    /// Zeros of both signs.
    Zeros,
    /// A few halves, so that many are equal.
    Ties,
    /// ±0, denormals, numbers beside 1, and magnitudes up to what the operation can take.
    Special,
    /// Both signs of the greatest magnitude that the operation can take.
    Wide,
    /// One great number a row.
    Peak,
    /// A mean a hundred times the deviation.
    Offset,
    /// All different, away from 0 and from each other by at least 1/16, across operands too: no kink is near.
    Apart,
    /// NaN where the contract says that it goes through, normal draws elsewhere.
    Nan,
    /// NaN where the contract says that nothing looks, normal draws elsewhere.
    Masked,
    /// Normal draws; ids in a random order, none twice while there are enough.
    Permuted,
    /// Normal draws; few ids, each several times.
    Repeated,
    /// Normal draws; every third id beyond the rows.
    Beyond,
}

impl Fill {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::Normal,
        Self::Large,
        Self::Small,
        Self::Positive,
        Self::Negative,
        Self::Constant,
        Self::Zeros,
        Self::Ties,
        Self::Special,
        Self::Wide,
        Self::Peak,
        Self::Offset,
        Self::Apart,
        Self::Nan,
        Self::Masked,
        Self::Permuted,
        Self::Repeated,
        Self::Beyond,
    ];

    /// Whether floats are independent draws around 0.
    pub(crate) fn is_random(self) -> bool {
        matches!(
            self,
            Self::Normal
                | Self::Nan
                | Self::Masked
                | Self::Permuted
                | Self::Repeated
                | Self::Beyond
                | Self::Small
                | Self::Large
        )
    }
}

/// How operands lie in their buffers. What lies around and between is NaN, or `u32::MAX` among ids: reading it shows.
///
/// Weights and the rows of a cache are always contiguous.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum View {
    /// Row-major, the whole buffer.
    #[default]
    Contiguous,
    /// Row-major, five elements into a longer buffer.
    Offset,
    /// Dimensions the other way round in memory; of a vector every other element.
    Permuted,
    /// A box inside a wider buffer.
    Sliced,
    /// The first dimension longer than 1, the innermost left out, repeated by a stride of 0.
    Broadcast,
    /// The innermost dimension repeated by a stride of 0.
    Repeated,
}

impl View {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Contiguous, Self::Offset, Self::Permuted, Self::Sliced, Self::Broadcast, Self::Repeated];
    /// Those that show every element once.
    pub const DISTINCT: [Self; 4] = [Self::Contiguous, Self::Offset, Self::Permuted, Self::Sliced];
    /// Those that leave every row as it is drawn.
    pub const OF_ROWS: [Self; 5] = [Self::Contiguous, Self::Offset, Self::Permuted, Self::Sliced, Self::Broadcast];

    /// Whether elements are seen more than once: they are no independent draws then.
    pub(crate) fn repeats(self) -> bool {
        matches!(self, Self::Broadcast | Self::Repeated)
    }
}

impl Recipe {
    /// A recipe of this operation, with nothing set.
    pub fn new(op: &str) -> Self {
        Self {
            op: op.to_owned(),
            backward: false,
            dims: BTreeMap::new(),
            attributes: Map::new(),
            absent: Vec::new(),
            fill: Fill::Normal,
            view: View::Contiguous,
            weight_dtype: WeightDType::F32,
            dtype: None,
            seed: 0,
        }
    }

    /// Asks for gradients.
    pub fn backward(self) -> Self {
        Self { backward: true, ..self }
    }

    /// Asks for gradients, or not.
    pub fn direction(self, backward: bool) -> Self {
        Self { backward, ..self }
    }

    /// With this size.
    pub fn dim(mut self, name: &str, size: usize) -> Self {
        self.dims.insert(name.to_owned(), size);
        self
    }

    /// With these sizes.
    pub fn dims<const N: usize>(self, dims: [(&str, usize); N]) -> Self {
        dims.into_iter().fold(self, |recipe, (name, size)| recipe.dim(name, size))
    }

    /// With an operand's sizes `name0`, `name1`, …
    pub fn shape(self, name: &str, sizes: &[usize]) -> Self {
        sizes.iter().enumerate().fold(self, |recipe, (axis, &size)| recipe.dim(&format!("{name}{axis}"), size))
    }

    /// With this attribute.
    pub fn attribute(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.attributes.insert(name.to_owned(), value.into());
        self
    }

    /// Without this operand.
    pub fn without(mut self, operand: &str) -> Self {
        self.absent.push(operand.to_owned());
        self
    }

    /// Filled so.
    pub fn fill(self, fill: Fill) -> Self {
        Self { fill, ..self }
    }

    /// Laid out so.
    pub fn view(self, view: View) -> Self {
        Self { view, ..self }
    }

    /// With weights kept so.
    pub fn weight(self, weight_dtype: WeightDType) -> Self {
        Self { weight_dtype, ..self }
    }

    /// With operands of this type where any will do.
    pub fn of_type(self, dtype: DType) -> Self {
        Self { dtype: Some(dtype), ..self }
    }

    /// With this key.
    pub fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// A short name: operation, direction and seed, `softmax#0123`, `softmax.backward#0007`. The recipes of a
    /// [sweep](crate::sweep::recipes) are numbered by their seeds, whatever the depth.
    pub fn id(&self) -> String {
        let direction = if self.backward { ".backward" } else { "" };
        format!("{}{direction}#{:04}", self.op, self.seed)
    }

    /// The problem that it stands for: the same every time, on every machine.
    ///
    /// # Errors
    /// [`Error::Problem`] names a size, an attribute or an operand that is missing, unknown or does not fit.
    pub fn problem(&self) -> Result<Problem, Error> {
        recipes::problem(self)
    }
}

impl fmt::Display for Recipe {
    /// One line of JSON.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Names and numbers only: writing them as JSON cannot fail.
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

impl FromStr for Recipe {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        serde_json::from_str(text).map_err(|error| Error::problem("recipe", format!("no recipe: {error}")))
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn single() -> WeightDType {
    WeightDType::F32
}

fn is_single(dtype: &WeightDType) -> bool {
    *dtype == WeightDType::F32
}
