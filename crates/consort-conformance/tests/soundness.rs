//! Bounds hold for devices that do all that their profile lets them: other orders of summation, fused multiply-adds,
//! functions that are off by what is promised, denormals taken for zero.

mod common;

use std::sync::atomic::{AtomicU64, Ordering};

use common::{Draw, every};
use consort_conformance::{
    bounds::{Accuracy, Profile, expected},
    judge::judge,
    oracle::Single,
    problem::How,
};
use consort_core::{
    Backend, DType, Device, FusedOf, HostData, Nothing, Outputs, Primitive, PrimitiveOf, Ready, Result, Shape, Spec,
    Tensor, TensorOf,
    operation::{BinaryKind, ReduceKind, UnaryKind},
    philox::uniform,
    unsupported,
};

/// In which order terms are added.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Order {
    /// Last to first.
    Backwards,
    /// Halves, halved again.
    Pairwise,
    /// Sixteen chains side by side, with fused multiply-adds.
    Lanes,
}

/// Scalar f32 that takes every liberty of a profile.
struct Liberal {
    device: Device<Single>,
    profile: Profile,
    order: Order,
    drawn: AtomicU64,
}

type Buffer = <Single as Backend>::Buffer;

impl Liberal {
    fn new(profile: Profile, order: Order) -> Self {
        Self { device: Device::new(Single::new()), profile, order, drawn: AtomicU64::new(0) }
    }

    fn read(&self, x: &TensorOf<Self>, shape: &Shape) -> Result<Vec<f32>> {
        let x = Tensor::with_layout(x.buffer.clone(), *x.layout(), x.dtype()).broadcast_to(shape.sizes())?;
        match self.device.download(&x)? {
            HostData::F32(data) => Ok(data.into_iter().map(|x| self.flushed(x)).collect()),
            other => panic!("{:?}", other.dtype()),
        }
    }

    fn flushed(&self, x: f32) -> f32 {
        if self.profile.flush_denormals && x.abs() < f32::MIN_POSITIVE { 0.0 } else { x }
    }

    /// `value` off by a share of what is allowed, mostly all of it.
    fn off(&self, value: f64, accuracy: Accuracy, argument: f64) -> f32 {
        let nearest = value as f32;
        if !value.is_finite() || !nearest.is_finite() {
            return nearest;
        }
        // Of the number itself: just below a power of two it is half of what it is there.
        let below =
            if f64::from(nearest.abs()) > value.abs() { nearest.abs().to_bits() - 1 } else { nearest.abs().to_bits() };
        let ulp = f64::from(f32::from_bits(below + 1)) - f64::from(f32::from_bits(below));
        let most = (accuracy.ulps + accuracy.ulps_by_argument * argument.abs()) * ulp + accuracy.absolute;
        // A correctly rounded function has no liberty.
        if accuracy.ulps <= 0.5 && accuracy.absolute == 0.0 {
            return nearest;
        }
        let draw = 2.0 * uniform(7, 0, self.drawn.fetch_add(1, Ordering::Relaxed)) - 1.0;
        let share = if draw.abs() > 0.3 { draw.signum() } else { draw };
        // Rounding to f32 again must not lead beyond what is allowed.
        let wrong = (value + share * most) as f32;
        let within = (f64::from(wrong) - value).abs() <= most;
        // No function gives what it cannot: a negative exponential, a tanh beyond 1.
        if within { wrong } else { nearest }
    }

    fn sum(&self, terms: &[f32]) -> f32 {
        match self.order {
            Order::Backwards => terms.iter().rev().fold(0.0, |sum, x| sum + x),
            Order::Pairwise if terms.len() <= 2 => terms.iter().sum(),
            Order::Pairwise => {
                let (a, b) = terms.split_at(terms.len() / 2);
                self.sum(a) + self.sum(b)
            }
            Order::Lanes => {
                let mut lanes = [0f32; 16];
                terms.iter().enumerate().for_each(|(at, x)| lanes[at % 16] += x);
                lanes.iter().sum()
            }
        }
    }

    fn dot(&self, a: &[f32], b: &[f32]) -> f32 {
        match self.order {
            Order::Lanes => {
                let mut lanes = [0f32; 16];
                a.iter().zip(b).enumerate().for_each(|(at, (a, b))| lanes[at % 16] = a.mul_add(*b, lanes[at % 16]));
                lanes.iter().sum()
            }
            _ => self.sum(&a.iter().zip(b).map(|(a, b)| self.flushed(a * b)).collect::<Vec<_>>()),
        }
    }

    fn matmul(&self, a: &TensorOf<Self>, b: &TensorOf<Self>, out: &Spec) -> Result<Vec<f32>> {
        let sizes = out.shape.sizes();
        let (batch, tail) = sizes.split_at(sizes.len() - 2);
        let (m, n, k) = (tail[0], tail[1], *a.sizes().last().unwrap());
        let with = |rows: usize, columns: usize| Shape::new(&[batch, &[rows, columns]].concat());
        let (a, b) = (self.read(a, &with(m, k)?)?, self.read(b, &with(k, n)?)?);
        let mut product = Vec::new();
        for (a, b) in a.chunks(m * k).zip(b.chunks(k * n)) {
            for row in a.chunks(k) {
                for column in 0..n {
                    let column: Vec<f32> = b.iter().skip(column).step_by(n).copied().collect();
                    product.push(self.dot(row, &column));
                }
            }
        }
        Ok(product)
    }

    fn computed(&self, operation: &PrimitiveOf<Self>, out: &Spec) -> Result<Option<Vec<f32>>> {
        let f = &self.profile.functions;
        Ok(Some(match operation {
            Primitive::Unary { x, kind } => {
                let (accuracy, of): (Accuracy, fn(f64) -> f64) = match kind {
                    UnaryKind::Negate | UnaryKind::Round | UnaryKind::Single => return Ok(None),
                    UnaryKind::Exp => (f.exp, f64::exp),
                    UnaryKind::Log => (f.log, f64::ln),
                    UnaryKind::Sqrt => (f.sqrt, f64::sqrt),
                    UnaryKind::Tanh => (f.tanh, f64::tanh),
                    UnaryKind::Erf => (f.erf, libm::erf),
                    UnaryKind::Reciprocal => (f.divide, f64::recip),
                };
                let floor = matches!(kind, UnaryKind::Exp | UnaryKind::Sqrt);
                let of = |x: f32| {
                    let y = self.off(of(f64::from(x)), accuracy, f64::from(x));
                    if floor { y.max(0.0) } else { y }
                };
                self.read(x, &out.shape)?.into_iter().map(of).collect()
            }
            Primitive::Binary { a, b, kind } if out.dtype == DType::F32 => {
                let pairs = self.read(a, &out.shape)?.into_iter().zip(self.read(b, &out.shape)?);
                let of = |(a, b): (f32, f32)| match kind {
                    BinaryKind::Add => a + b,
                    BinaryKind::Subtract => a - b,
                    BinaryKind::Multiply => a * b,
                    BinaryKind::Maximum => a.max(b),
                    BinaryKind::Minimum => a.min(b),
                    // As a product with a reciprocal that is exact.
                    _ if f.divide.ulps < 2.0 && b.to_bits() << 9 == 0 => a / b,
                    _ => self.off(f64::from(a) / f64::from(b), f.divide, 0.0),
                };
                pairs.map(of).collect()
            }
            Primitive::Reduce { x, axis, kind: ReduceKind::Sum } => {
                let data = self.read(x, x.shape())?;
                let inner: usize = x.sizes()[axis + 1..].iter().product();
                let length = x.size(*axis);
                let mut sums = Vec::new();
                for block in data.chunks(length * inner) {
                    for lane in 0..inner {
                        sums.push(self.sum(&block.iter().skip(lane).step_by(inner).copied().collect::<Vec<_>>()));
                    }
                }
                sums
            }
            Primitive::MatMul { a, b } => self.matmul(a, b, out)?,
            _ => return Ok(None),
        }))
    }
}

impl Backend for Liberal {
    type Buffer = Buffer;
    type Packed = Nothing;
    type Store = Nothing;
    type Ticket = Ready;
    type Host = Single;

    fn alloc(&self, dtype: DType, elements: usize) -> Result<Buffer> {
        self.device.backend().alloc(dtype, elements)
    }

    fn upload(&self, data: HostData) -> Result<Buffer> {
        self.device.backend().upload(data)
    }

    fn download(&self, buffer: &Buffer) -> Result<Ready> {
        self.device.backend().download(buffer)
    }

    fn name(&self) -> &'static str {
        "liberal"
    }

    fn primitive(&self, operation: &mut PrimitiveOf<Self>, out: &Spec) -> Result<Buffer> {
        match self.computed(operation, out)? {
            Some(data) => self.upload(HostData::F32(data.into_iter().map(|x| self.flushed(x)).collect())),
            None => self.device.backend().primitive(operation, out),
        }
    }

    fn fused(&self, operation: &mut FusedOf<Self>, _: &[Spec]) -> Result<Outputs<Buffer>> {
        Err(unsupported(self, operation.name()))
    }
}

#[test]
fn every_liberty_of_a_profile_is_within_its_bounds() {
    let loose = Profile {
        functions: consort_conformance::bounds::Functions {
            exp: Accuracy::ulps(2.0),
            log: Accuracy::ulps(2.0),
            sqrt: Accuracy::ulps(1.0),
            tanh: Accuracy::ulps(3.0),
            erf: Accuracy::ulps(3.0),
            divide: Accuracy::ulps(1.5),
        },
        ..Profile::ieee()
    };
    let devices = [
        (Profile::ieee(), Order::Backwards),
        (loose.clone(), Order::Pairwise),
        (loose, Order::Lanes),
        (Profile::wgsl(), Order::Lanes),
    ];
    for (profile, order) in devices {
        let device = Device::new(Liberal::new(profile.clone(), order));
        let (mut most, mut failures) = ((0.0, String::new()), Vec::new());
        for (label, problem) in every(&mut Draw::new(9)) {
            let expected = expected(&problem, &profile).unwrap();
            let judgement = judge(&problem.run(&device, How::AsAsked).unwrap(), &expected);
            // Under a loose profile a bound may say little; it must hold all the same.
            let within = judgement.budget <= 1.0;
            if !within {
                failures.push(format!("{label}: {:?}", judgement.failure()));
            } else if judgement.budget > most.0 {
                most = (judgement.budget, label);
            }
        }
        println!("{} {order:?}: at most {:.5} in {}", profile.name, most.0, most.1);
        assert!(failures.is_empty(), "{} {order:?}\n{}", profile.name, failures.join("\n"));
    }
}
