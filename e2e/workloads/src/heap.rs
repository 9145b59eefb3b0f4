// The same as heap.c with Vec, Box and String.
use std::hint::black_box;
use std::{env, thread, time::Duration};

const BLOCKS: usize = 10000;

fn size_of(i: usize) -> usize {
    1000 + i * 7919 % 16001
}

enum Block {
    Vec(Vec<u8>),
    Boxed(Box<[u8]>),
    Text(String),
}

#[inline(never)]
fn keep70(n: usize) -> Block {
    Block::Vec(black_box(vec![1; n]))
}

#[inline(never)]
fn keep20(n: usize) -> Block {
    Block::Boxed(black_box(vec![1; n].into_boxed_slice()))
}

#[inline(never)]
fn keep10(n: usize) -> Block {
    let mut s = String::with_capacity(n);
    s.extend(std::iter::repeat('x').take(n));
    Block::Text(black_box(s))
}

#[inline(never)]
fn make() -> Vec<Block> {
    (0..BLOCKS)
        .map(|i| match i % 10 {
            0..=6 => keep70(size_of(i)),
            7..=8 => keep20(size_of(i)),
            _ => keep10(size_of(i)),
        })
        .collect()
}

fn bytes(b: &Block) -> usize {
    match b {
        Block::Vec(v) => v.len(),
        Block::Boxed(v) => v.len(),
        Block::Text(s) => s.len(),
    }
}

fn main() {
    let times = if env::args().nth(1).as_deref() == Some("alloc") { 2 } else { 1 };
    thread::sleep(Duration::from_secs(2));
    let kept = black_box(make());
    drop(black_box(make()));
    thread::sleep(Duration::from_secs(3));
    for (name, which) in [("keep70", 0..7), ("keep20", 7..9), ("keep10", 9..10)] {
        let sum: usize = kept.iter().enumerate().filter(|(i, _)| which.contains(&(i % 10))).map(|(_, b)| bytes(b)).sum();
        println!("{name} {}", sum * times);
    }
}
