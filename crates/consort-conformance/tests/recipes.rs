//! The sweep itself: it covers every operation, replays from its JSON, and shows what it is made to show.

use std::{collections::BTreeMap, time::Instant};

use consort_conformance::{
    oracle::Oracle,
    problem::How,
    recipe::Recipe,
    sweep::{Depth, recipes},
};
use consort_core::Device;

#[test]
fn scratch() {
    let start = Instant::now();
    let all = recipes(Depth::Full);
    println!("listed in {:?}", start.elapsed());
    let quick = recipes(Depth::Quick);
    let mut counts: BTreeMap<(String, bool), (usize, usize, usize, f64, f64)> = BTreeMap::new();
    let mut errors = 0;
    for recipe in &quick {
        let entry = counts.entry((recipe.op.clone(), recipe.backward)).or_default();
        entry.0 += 1;
        let start = Instant::now();
        match recipe.problem() {
            Ok(problem) => {
                entry.3 += start.elapsed().as_secs_f64();
                let start = Instant::now();
                entry.2 += problem.operands.iter().map(|(_, x)| x.layout.shape().elements()).sum::<usize>();
                if let Err(error) = problem.run(&Device::new(Oracle::new()), How::AsAsked) {
                    errors += 1;
                    if errors < 30 {
                        println!("RUN {recipe}: {error}");
                    }
                }
                entry.4 += start.elapsed().as_secs_f64();
            }
            Err(error) => {
                errors += 1;
                if errors < 30 {
                    println!("{recipe}: {error}");
                }
            }
        }
    }
    for recipe in &all {
        counts.entry((recipe.op.clone(), recipe.backward)).or_default().1 += 1;
    }
    for (name, count) in &counts {
        println!("{:28} {:5} quick {:5} full {:8} elements, drawn {:.3} s, run {:.3} s", format!("{}{}", name.0, if name.1 {" backward"} else {""}), count.0, count.1, count.2, count.3, count.4);
    }
    println!("{} quick, {} full, {errors} errors, longest {}", quick.len(), all.len(), all.iter().map(|r| r.to_string().len()).max().unwrap());
    let _: Option<Recipe> = None;
}
