//! The popularity classes of a workload.

use workload::{Offsets, Spec, Zipf};

use super::space::Class;
use crate::experiment::{Disk, Ram};

/// Classes of a zipf distribution: each is half as large as the next.
const ZIPF_CLASSES: i32 = 20;
/// The unit in which the workload crate spreads popular offsets.
const UNIT: f64 = 4096.0;
/// Bytes of a page of RAM.
pub const PAGE: f64 = 4096.0;

/// Returns the classes of a disk's granules, the most popular first.
pub fn of_disk(disk: &Disk, spec: &Spec) -> Vec<Class> {
    let granule = disk.granule as f64;
    let working_set = spec.working_set.unwrap_or(disk.size) as f64 / granule;
    let data = (disk.size as f64 * disk.allocated / granule).max(1.0);
    // The guest uses what it has written before, as far as there is that much.
    let used = working_set.min(data).max(1.0);
    let mut classes = match &spec.offsets {
        Offsets::Phases(phases) => {
            let total: f64 = phases.iter().map(|(count, _)| *count as f64).sum();
            let most = phases.iter().max_by(|a, b| a.0.cmp(&b.0));
            let popular = phases.iter().find(|(_, offsets)| matches!(offsets, Offsets::Zipf(_)));
            match popular {
                // Of phases, the popular places of one lie below the even use of the others.
                Some((count, offsets)) => {
                    let share = *count as f64 / total;
                    let mut classes = one(offsets, used, granule);
                    for class in &mut classes {
                        class.writes = class.writes * share + (1.0 - share) * class.n / used;
                    }
                    classes
                }
                None => most.map_or_else(Vec::new, |(_, offsets)| one(offsets, used, granule)),
            }
        }
        offsets => one(offsets, used, granule),
    };
    if data > used {
        classes.push(Class { n: data - used, ..Class::default() });
    }
    classes
}

fn one(offsets: &Offsets, used: f64, granule: f64) -> Vec<Class> {
    let class = |n: f64, writes: f64| Class { n, writes, ..Class::default() };
    match offsets {
        Offsets::Hotspot { requests, space } if *space < 1.0 => {
            vec![class(used * space, *requests), class(used * (1.0 - space), 1.0 - requests)]
        }
        Offsets::Zipf(theta) if *theta > 0.0 && used >= 2.0 => {
            // Popular units lie anywhere, so the most popular ones are in granules of their own, and all
            // granules share the others alike.
            let zipf = Zipf::new((used * granule / UNIT).max(used) as u64, *theta);
            let others = 1.0 - zipf.share(used);
            let mut classes = Vec::new();
            let mut below = 0.0;
            for step in (0..ZIPF_CLASSES).rev() {
                let upper = used / f64::from(1 << step);
                if upper < 1.0 {
                    continue;
                }
                let popular = zipf.share(upper) - if below > 0.0 { zipf.share(below) } else { 0.0 };
                classes.push(class(upper - below, popular + others * (upper - below) / used));
                below = upper;
            }
            classes
        }
        _ => vec![class(used, 1.0)],
    }
}

/// Returns the classes of a guest's pages.
pub fn of_ram(ram: &Ram) -> Vec<Class> {
    let (used, hot) = (ram.size as f64 * ram.used / PAGE, ram.working_set as f64 / PAGE);
    let mut classes = vec![Class { n: hot, writes: 1.0, ..Class::default() }];
    if used > hot {
        classes.push(Class { n: used - hot, ..Class::default() });
    }
    classes
}
