// Allocates known amounts by Rust's means. The same protocol as truth.c.
use std::collections::BTreeMap;
use std::io::BufRead;

type Sites = BTreeMap<&'static str, (usize, usize)>;

#[inline(never)]
fn site_box(sites: &mut Sites, kept: &mut Vec<Box<[u8; 1500]>>, mb: f64) {
    for _ in 0..(mb * 1048576.0 / 1500.0) as usize {
        kept.push(Box::new([1; 1500]));
        let s = sites.entry("site_box").or_default();
        s.0 += 1500;
        s.1 += 1500;
    }
}

#[inline(never)]
fn site_vec(sites: &mut Sites, kept: &mut Vec<Vec<u64>>, mb: f64) {
    for _ in 0..(mb * 1048576.0 / 8000.0) as usize {
        let mut v: Vec<u64> = Vec::with_capacity(250);
        let s = sites.entry("site_vec").or_default();
        s.1 += 2000;
        let mut at = 250;
        for i in 0..1000 {
            v.push(i);
            if v.capacity() != at {
                at = v.capacity();
                s.1 += at * 8;
            }
        }
        s.0 += at * 8;
        kept.push(v);
    }
}

#[inline(never)]
fn site_zeroed(sites: &mut Sites, kept: &mut Vec<Vec<u8>>, mb: f64) {
    for _ in 0..(mb * 1048576.0 / 30000.0) as usize {
        kept.push(vec![0u8; 30000]);
        let s = sites.entry("site_zeroed").or_default();
        s.0 += 30000;
        s.1 += 30000;
    }
}

fn main() {
    let mut sites = Sites::new();
    let (mut a, mut b, mut c) = (Vec::with_capacity(1 << 20), Vec::with_capacity(1 << 20), Vec::with_capacity(1 << 20));
    for line in std::io::stdin().lock().lines() {
        let line = line.unwrap();
        let mut words = line.split(' ');
        let word = words.next().unwrap();
        let mb: f64 = words.next().unwrap().parse().unwrap();
        if word == "live" {
            site_box(&mut sites, &mut a, mb / 3.0);
            site_vec(&mut sites, &mut b, mb / 3.0);
            site_zeroed(&mut sites, &mut c, mb / 3.0);
        }
        for (name, s) in &sites {
            println!("{} {} {}", name, s.0, s.1);
        }
        println!("truth 0 0\nend 0 0");
    }
}
