// Rust as people write it: main → alpha → <Fast as Engine>::turn (dynamic) → a closure → hot70, hot20, hot10.
// Built with -O and nothing else: no frame pointers, no debug information.

// A value that the compiler knows nothing of; std::hint has it since Rust 1.66 only.
#[inline(never)]
fn black_box<T>(x: T) -> T {
    let y = unsafe { std::ptr::read_volatile(&x) };
    std::mem::forget(x);
    y
}

const UNIT: u64 = 4_000_000;

#[inline(never)]
fn hot70(mut x: u64, n: u64) -> u64 {
    for _ in 0..n {
        x = x.wrapping_mul(0x9e3779b97f4a7c15) ^ (x >> 13);
    }
    x
}

#[inline(never)]
fn hot20(mut x: u64, n: u64) -> u64 {
    for _ in 0..n {
        x = x.wrapping_mul(0xc2b2ae3d27d4eb4f) ^ (x >> 13);
    }
    x
}

#[inline(never)]
fn hot10(mut x: u64, n: u64) -> u64 {
    for _ in 0..n {
        x = x.wrapping_mul(0x165667b19e3779f9) ^ (x >> 13);
    }
    x
}

trait Engine {
    fn turn(&self, x: u64) -> u64;
}

struct Fast {
    units: Vec<u64>,
}

impl Engine for Fast {
    #[inline(never)]
    fn turn(&self, x: u64) -> u64 {
        let work: Box<dyn Fn(u64) -> u64> = Box::new(move |x| {
            let mut x = x;
            x = x.wrapping_add(hot70(x, black_box(self.units[0])));
            x = x.wrapping_add(hot20(x, black_box(self.units[1])));
            x = x.wrapping_add(hot10(x, black_box(self.units[2])));
            x
        });
        black_box(&work)(x) ^ x
    }
}

#[inline(never)]
fn bravo(engine: &dyn Engine, x: u64) -> u64 {
    engine.turn(x.wrapping_add(3)) ^ x
}

#[inline(never)]
fn alpha(engine: &dyn Engine, x: u64) -> u64 {
    bravo(engine, x.wrapping_add(4)) ^ x
}

#[repr(C)]
struct Timespec {
    seconds: i64,
    nanoseconds: i64,
}

extern "C" {
    fn clock_gettime(clock: i32, time: *mut Timespec) -> i32;
}

// The CPU seconds that this process has used.
fn burnt() -> f64 {
    let mut t = Timespec { seconds: 0, nanoseconds: 0 };
    unsafe { clock_gettime(2, &mut t) }; // CLOCK_PROCESS_CPUTIME_ID
    t.seconds as f64 + t.nanoseconds as f64 / 1e9
}

fn main() {
    let seconds: f64 = std::env::args().nth(1).and_then(|s| s.parse().ok()).unwrap_or(0.0);
    let end = if seconds > 0.0 { seconds } else { 1e18 };
    let engine: Box<dyn Engine> = Box::new(Fast { units: vec![7 * UNIT, 2 * UNIT, UNIT] });
    let mut x = 0;
    while burnt() < end {
        x = black_box(alpha(black_box(&*engine), x));
    }
}
