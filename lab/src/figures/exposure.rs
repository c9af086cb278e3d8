//! Seconds in which a death would cost this much, by strategy. Runs are forked at instants to find out.

use super::{Check, Figure, setup};
use crate::fluid::Run;
use crate::plot::{Axis, Bars, Unit};
use crate::presets::{self, Strategy};
use crate::reader::LabError;
use crate::report::metrics::{CLASSES, exposure};

const SETUP: &str = "
[disk]
size = \"100G\"
allocated = 0.6
[ram]
size = \"16G\"
used = 0.7
dirty = \"200M/s\"
working-set = \"1G\"
[link]
rate = \"10Gbit\"
[workload]
preset = \"oltp\"
working-set = \"20G\"
";

/// Makes the figure.
pub(super) fn figure() -> Result<Figure, LabError> {
    let setup = setup("exposure", SETUP)?;
    let pairs = presets::DISK.map(|preset| {
        let name = preset.name.replace("(W)", "(64M)").replace("(P)", "(0.5)");
        let ram = if name.starts_with("postcopy") { "postcopy" } else { "precopy" };
        let ram = if name == "stop-and-copy" { "stop" } else { ram };
        Strategy { disk: Some(name), ram: Some(ram.to_owned()) }
    });
    let (mut rows, mut bars, mut worst) = (Vec::new(), Vec::new(), 0.0_f64);
    for strategy in pairs {
        let run = Run::new(&setup, &strategy, 1).finish().record;
        let [(_, source), (_, target), (_, link)] = exposure(&run);
        for (party, costs) in [("source", source), ("target", target), ("link", link)] {
            bars.push((format!("{}: {party}", strategy.name()), costs.to_vec()));
        }
        bars.push((String::new(), Vec::new()));
        for party in [source, target, link] {
            worst = worst.max((party.iter().sum::<f64>() / run.total_s - 1.0).abs());
        }
        let values = [
            run.total_s,
            run.independence_s,
            source[4],
            source[3],
            source[0],
            target[1],
            target[4],
            link[0],
            link[1],
            link[2],
        ];
        let cells = values.iter().map(|value| format!("{value:.1}"));
        rows.push([strategy.name()].into_iter().chain(cells).collect());
    }
    let heads = [
        "strategy",
        "total",
        "independence",
        "source dies: data lost",
        "source dies: reboot",
        "source dies: nothing",
        "target dies: restart",
        "target dies: data lost",
        "link dies: nothing",
        "link dies: restart",
        "link dies: pause",
    ];
    Ok(Figure {
        name: "exposure",
        title: "Seconds of each cost of a death, for 60 of 100 GiB and 11 GiB of RAM over 10 Gbit/s; one seed. A death \
                is for good: host and disk are gone, or the link is cut."
            .to_owned(),
        columns: heads.map(String::from).to_vec(),
        rows,
        checks: vec![Check::new(
            "for each party the costs cover the whole migration",
            format!("they differ by at most {:.2} %", worst * 100.0),
            worst < 0.02,
        )],
        svg: Bars {
            title: "If this party dies at an instant, this is what it costs".to_owned(),
            axis: Axis::new("time during which it costs that", Unit::Seconds),
            parts: CLASSES.map(str::to_owned).to_vec(),
            bars,
        }
        .svg(),
    })
}
