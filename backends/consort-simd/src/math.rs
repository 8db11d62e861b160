//! Elementary functions in lanes.

use crate::isa::Isa;
