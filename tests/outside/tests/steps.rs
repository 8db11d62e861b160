#![allow(clippy::duplicate_mod, reason = "each step has its own")]
#[path = "../src/step1.rs"]
mod step1;
#[path = "../src/step2.rs"]
mod step2;
#[path = "../src/step3.rs"]
mod step3;
#[path = "../src/step4.rs"]
mod step4;
#[path = "../src/step5.rs"]
mod step5;
#[path = "../src/step6.rs"]
mod step6;
#[path = "../src/step7.rs"]
mod step7;
#[test]
fn x() {
    let _ = (step1::Vector, step2::Vector, step7::Vector);
}
