//! The sweep itself: it covers every operation, replays from its JSON, and shows what it is made to show.

use std::{collections::BTreeMap, time::Instant};

use consort_conformance::{
    bounds::{Profile, expected},
    judge::judge,
    oracle::Single,
    problem::How,
    sweep::{Depth, recipes},
};
use consort_core::Device;

#[test]
fn generated() {
    use consort_conformance::sweep::{operations, proptest};
    let device = Device::new(Single::new());
    let cases: u32 = std::env::var("CASES").ok().and_then(|x| x.parse().ok()).unwrap_or(200);
    for op in operations() {
        for backward in [false, true] {
            let mut n = 0;
            let mut vague = 0;
            let mut shown = 0;
            let start = Instant::now();
            let failure = proptest(op, backward, cases, &mut |recipe| {
                n += 1;
                let problem = recipe.problem().map_err(|e| format!("{e}"))?;
                let bounds = expected(&problem, &Profile::ieee()).map_err(|e| format!("{e}"))?;
                let outputs = problem.run(&device, How::AsAsked).map_err(|e| format!("{e}"))?;
                let j = judge(&outputs, &bounds);
                if !j.vague.is_empty() {
                    vague += 1;
                    shown += 1;
                    if shown < 4 {
                        println!("VAGUE {recipe} {:?}", j.vague);
                    }
                }
                if !(j.budget <= 1.0) {
                    return Err(j.failure().unwrap());
                }
                Ok(())
            });
            println!("{op} {backward}: {n}, vague {vague}, {:?}", start.elapsed());
            if let Some((recipe, what)) = failure {
                println!("FAILURE {recipe}\n    {what}");
            }
        }
    }
}

#[test]
fn scratch() {
    let full = std::env::var("FULL").is_ok();
    let only = std::env::var("ONLY").unwrap_or_default();
    let show: usize = std::env::var("SHOW").ok().and_then(|x| x.parse().ok()).unwrap_or(4);
    let profile = if std::env::var("WGSL").is_ok() { Profile::wgsl() } else { Profile::ieee() };
    let list = recipes(if full { Depth::Full } else { Depth::Quick });
    #[derive(Default)]
    struct Count {
        n: usize,
        failed: usize,
        vague: usize,
        zero: usize,
        equal: usize,
        shown: usize,
        worst: f64,
        times: [f64; 3],
    }
    let mut counts: BTreeMap<(String, bool), Count> = BTreeMap::new();
    let device = Device::new(Single::new());
    for recipe in list.iter().filter(|r| r.op.starts_with(&only)) {
        let entry = counts.entry((recipe.op.clone(), recipe.backward)).or_default();
        entry.n += 1;
        let start = Instant::now();
        let problem = recipe.problem().unwrap();
        entry.times[0] += start.elapsed().as_secs_f64();
        let start = Instant::now();
        let bounds = match expected(&problem, &profile) {
            Ok(b) => b,
            Err(e) => {
                println!("BOUNDS {recipe}: {e}");
                continue;
            }
        };
        entry.times[1] += start.elapsed().as_secs_f64();
        let start = Instant::now();
        let outputs = match problem.run(&device, How::AsAsked) {
            Ok(b) => b,
            Err(e) => {
                println!("RUN {recipe}: {e}");
                continue;
            }
        };
        entry.times[2] += start.elapsed().as_secs_f64();
        let judgement = judge(&outputs, &bounds);
        if !(judgement.budget <= 1.0) {
            entry.failed += 1;
        }
        entry.worst = entry.worst.max(judgement.budget);
        if !judgement.vague.is_empty() {
            entry.vague += 1;
        }
        if judgement.failure().is_some() {
            entry.shown += 1;
            if entry.shown <= show {
                println!("{} {recipe}\n    {}", recipe.id(), judgement.failure().unwrap());
            }
        }
        let zero = bounds.iter().all(|b| b.values.iter().all(|v| *v == 0.0));
        if zero && bounds.iter().any(|b| !b.values.is_empty()) {
            entry.zero += 1;
            if show > 90 {
                println!("ZERO {recipe}");
            }
        }
        let equal = bounds.iter().all(|b| b.values.windows(2).all(|v| v[0] == v[1]) && b.values.len() > 1);
        if equal && !zero {
            entry.equal += 1;
            if show > 91 {
                println!("EQUAL {recipe}");
            }
        }
    }
    let mut total = [0.0; 3];
    for (name, c) in &counts {
        for i in 0..3 {
            total[i] += c.times[i];
        }
        println!(
            "{:28} {:5} failed {:3} vague {:3} zero {:3} equal {:3} worst {:.3} {:.2?}",
            format!("{}{}", name.0, if name.1 { " backward" } else { "" }),
            c.n,
            c.failed,
            c.vague,
            c.zero,
            c.equal,
            c.worst,
            c.times
        );
    }
    println!("{} in {total:.2?}", list.len());
}
