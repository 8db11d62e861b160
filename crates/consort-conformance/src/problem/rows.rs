//! Rows that do not depend on each other: the same problem for some of them must give the same bits.
//!
//! | operations | sliced along the first axis | rows of |
//! |---|---|---|
//! | element-wise ones, AdamW, softmax, their backwards | every operand | every output |
//! | norms and their backwards | `x`, `d_y` | the output, `d_x` |
//! | `rotary`; `embedding`, `gather_rows` | `x`, `ids`; `ids` | the output |
//! | `quantize_activations` | `x` | every output |
//! | `linear`, `linear_backward_input` | `x`, `residual`; `d_y` | the output |
//! | `linear_backward_weight` | `d_y`, along its second axis | the output |
//! | `binary`, `select`, `matmul` of batches | what is not broadcast there | the output |
//! | `matmul`; `reduce` along another axis | `a`; `x` | the output |
//! | `attention`, its backward | `query`, `y`, `log_sum`, `d_y`; keys and segments follow | `y` and `log_sum`, `d_query` |
//! | `cached_attention`; `sample` | `query`, rows of the plan; `logits`, settings | the output |
//! | `cross_entropy`, its backward | every operand | every output |
//!
//! Of a problem with gradients those stay that belong to an operand that is sliced.

use std::ops::Range;

use consort_core::{
    HostData, Layout, Shape,
    operation::{AttentionAttributes, Mask, ScoreBias, Segments},
};
use serde_json::Value;

use super::{Backward, Elements, Operand, Problem, offsets};

/// Which operands go with the rows.
struct Plan {
    rows: usize,
    /// Operands and the axis that they are sliced along.
    operands: Vec<(String, usize)>,
    /// Outputs with a row for each.
    outputs: Vec<&'static str>,
}

impl Problem {
    /// How many rows its outputs of independent rows have; `None` where there is no such output.
    pub fn rows(&self) -> Option<usize> {
        let plan = self.plan()?;
        (!self.rows_of(&plan).is_empty()).then_some(plan.rows)
    }

    /// Names of the outputs with a row, along the first axis, for each independent row; empty where rows are not independent.
    pub fn by_row(&self) -> Vec<String> {
        self.plan().map(|plan| self.rows_of(&plan)).unwrap_or_default()
    }

    /// The same for these rows alone. Gradients that reduce over rows are left out of it; of outputs only those
    /// [`by_row`](Self::by_row) are rows of the whole problem's. `None` where rows are not independent, where there are none
    /// in `rows`, or where attention to positions would change: causal or biased attention can only be cut from the first
    /// row of a sequence on.
    pub fn restricted(&self, rows: Range<usize>) -> Option<Self> {
        let plan = self.plan()?;
        let names = self.rows_of(&plan);
        if rows.is_empty() || rows.end > plan.rows || names.is_empty() {
            return None;
        }
        let mut problem = self.clone();
        for (name, axis) in &plan.operands {
            let operand = problem.operand_mut(name)?;
            *operand = operand.sliced(*axis, rows.clone())?;
        }
        match self.op.as_str() {
            "attention" | "attention_backward" => problem.cut_segments(&rows)?,
            "cached_attention" => {
                problem.attributes.get_mut("plan")?.as_object_mut()?.get_mut("rows").and_then(|all| cut(all, &rows))?;
            }
            "sample" => problem.attributes.get_mut("rows").and_then(|all| cut(all, &rows))?,
            _ => {}
        }
        if let Some(Backward { cotangents, gradients }) = &mut problem.backward {
            for cotangent in cotangents.iter_mut().flatten() {
                *cotangent = cotangent.sliced(0, rows.clone())?;
            }
            gradients.retain(|gradient| names.iter().any(|name| name.strip_prefix("d_") == Some(gradient)));
        }
        Some(problem)
    }

    fn rows_of(&self, plan: &Plan) -> Vec<String> {
        let sliced = |name: &String| plan.operands.iter().any(|(of, axis)| of == name && *axis == 0);
        match &self.backward {
            None => plan.outputs.iter().map(|name| (*name).to_owned()).collect(),
            Some(backward) => {
                backward.gradients.iter().filter(|name| sliced(name)).map(|name| format!("d_{name}")).collect()
            }
        }
    }

    fn plan(&self) -> Option<Plan> {
        let sizes = |name: &str| self.operand(name).map(|operand| operand.layout.shape().sizes());
        let there = |names: &[&str]| -> Vec<(String, usize)> {
            names.iter().filter(|name| self.operand(name).is_some()).map(|name| ((*name).to_owned(), 0)).collect()
        };
        let all = || self.operands.iter().map(|(name, _)| (name.clone(), 0)).collect::<Vec<_>>();
        // The last axis is no row.
        let more_than_one_axis = |name: &str| sizes(name).is_some_and(|sizes| sizes.len() > 1);
        let op = crate::ops::Operation::find(&self.op)?;
        let (operands, outputs): (Vec<(String, usize)>, &'static [&'static str]) = match op.name {
            "copy"
            | "unary"
            | "activation"
            | "soft_cap"
            | "gated"
            | "adamw"
            | "activation_backward"
            | "soft_cap_backward"
            | "gated_backward"
            | "cross_entropy"
            | "cross_entropy_backward" => (all(), op.outputs),
            "softmax" if more_than_one_axis("x") => (all(), op.outputs),
            "softmax_backward" if more_than_one_axis("y") => (all(), op.outputs),
            "layer_norm" | "rms_norm" if more_than_one_axis("x") => (there(&["x"]), op.outputs),
            "layer_norm_backward" | "rms_norm_backward" if more_than_one_axis("x") => (there(&["x", "d_y"]), &["d_x"]),
            "rotary" => (there(&["x", "ids"]), op.outputs),
            "embedding" | "gather_rows" => (there(&["ids"]), op.outputs),
            "quantize_activations" => (there(&["x"]), op.outputs),
            "linear" => (there(&["x", "residual"]), op.outputs),
            "linear_backward_input" => (there(&["d_y"]), op.outputs),
            "linear_backward_weight" => (vec![("d_y".to_owned(), 1)], op.outputs),
            "reduce" if self.attributes.get("axis").and_then(Value::as_u64).is_some_and(|axis| axis > 0) => {
                (there(&["x"]), op.outputs)
            }
            "matmul" if sizes("a").is_some_and(|a| a.len() == 2) && sizes("b").is_some_and(|b| b.len() == 2) => {
                (there(&["a"]), op.outputs)
            }
            "binary" | "select" | "matmul" => {
                let rank = self.operands.iter().map(|(_, operand)| operand.layout.shape().rank()).max()?;
                let full = self.operands.iter().filter(|(_, operand)| operand.layout.shape().rank() == rank);
                let first = |operand: &Operand| operand.layout.shape().sizes().first().copied();
                let rows = full.clone().filter_map(|(_, operand)| first(operand)).max()?;
                let sliced = full.filter(|(_, operand)| first(operand) == Some(rows));
                (sliced.map(|(name, _)| (name.clone(), 0)).collect(), op.outputs)
            }
            "attention" => (there(&["query"]), op.outputs),
            "attention_backward" => (there(&["query", "y", "log_sum", "d_y"]), &["d_query"]),
            "cached_attention" => (there(&["query"]), op.outputs),
            "sample" => (there(&["logits"]), op.outputs),
            _ => return None,
        };
        let mut counts = operands.iter().map(|(name, axis)| sizes(name).and_then(|sizes| sizes.get(*axis)).copied());
        let rows = counts.next()??;
        if rows == 0 || counts.any(|count| count != Some(rows)) {
            return None;
        }
        Some(Plan { rows, operands, outputs: outputs.to_vec() })
    }

    fn operand_mut(&mut self, name: &str) -> Option<&mut Operand> {
        self.operands.iter_mut().find(|(of, _)| of == name).map(|(_, operand)| operand)
    }

    /// Segments, keys and values for these rows of the queries.
    fn cut_segments(&mut self, rows: &Range<usize>) -> Option<()> {
        let segments: Segments = serde_json::from_value(self.attributes.get("segments")?.clone()).ok()?;
        let attributes: AttentionAttributes = serde_json::from_value(Value::Object(self.attributes.clone())).ok()?;
        let causal = matches!(attributes.mask, Mask::Causal { .. });
        let by_position = causal || attributes.bias != ScoreBias::None;
        let mut kept = Segments { queries: Vec::new(), keys: Vec::new() };
        let mut seen: Option<Range<usize>> = None;
        let (mut query, mut key) = (0, 0);
        for (&queries, &keys) in segments.queries.iter().zip(&segments.keys) {
            let (start, end) = (rows.start.max(query), rows.end.min(query + queries));
            // Sequences without a query between others keep their keys' places.
            let between = query >= rows.start && query + queries <= rows.end;
            if start < end || between {
                if start < end && by_position && start > query {
                    return None;
                }
                let queries = end.saturating_sub(start);
                let keys = if causal { queries } else { keys };
                kept.queries.push(queries);
                kept.keys.push(keys);
                seen = Some(seen.map_or(key, |seen| seen.start)..key + keys);
            }
            (query, key) = (query + queries, key + keys);
        }
        for name in ["key", "value"] {
            let operand = self.operand_mut(name)?;
            *operand = operand.sliced(0, seen.clone()?)?;
        }
        self.attributes.insert("segments".to_owned(), serde_json::to_value(kept).ok()?);
        Some(())
    }
}

/// These of the elements of an array.
fn cut(all: &mut Value, rows: &Range<usize>) -> Option<()> {
    let array = all.as_array_mut()?;
    *array = array.get(rows.clone())?.to_vec();
    Some(())
}

impl Operand {
    /// Indices `range` of `axis`. What was contiguous stays so, in a buffer of its own; a view stays a view.
    fn sliced(&self, axis: usize, range: Range<usize>) -> Option<Self> {
        let layout = self.layout.slice(axis, range.start, range.len()).ok()?;
        let whole = self.layout == Layout::contiguous(*self.layout.shape())
            && self.elements.len() == self.layout.shape().elements();
        if !whole {
            return Some(Self { elements: self.elements.clone(), layout });
        }
        let at = offsets(&layout);
        let elements = match &self.elements {
            Elements::Float(values) => Elements::Float(picked(values, &at)?),
            Elements::Exact(data) => Elements::Exact(match data {
                HostData::F32(data) => HostData::F32(picked(data, &at)?),
                HostData::F64(data) => HostData::F64(picked(data, &at)?),
                HostData::F16(data) => HostData::F16(picked(data, &at)?),
                HostData::BF16(data) => HostData::BF16(picked(data, &at)?),
                HostData::U32(data) => HostData::U32(picked(data, &at)?),
            }),
            Elements::Blocks(..) => return None,
        };
        Some(Self { elements, layout: Layout::contiguous(Shape::new(layout.shape().sizes()).ok()?) })
    }
}

fn picked<T: Copy>(from: &[T], at: &[usize]) -> Option<Vec<T>> {
    at.iter().map(|&index| from.get(index).copied()).collect()
}
