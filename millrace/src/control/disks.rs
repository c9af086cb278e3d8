//! Disks: their images, sizes and counters.

use block::Kind;
use block::stats::Stats;
use block::switch::{DEADLINE, Target};
use qmp::command::*;
use qmp::types::*;
use qmp::{Error, Result};

use super::{Control, blocks, generic, node_names, stats, switch_error};

/// Converts the arguments of `change` of a disk.
pub(super) fn target(arguments: Change) -> Result<Target> {
    let format = match (arguments.arg, arguments.format) {
        (Some(arg), Some(format)) if arg != format => {
            let text = format!("'arg' says '{arg}' and 'format' says '{format}': give one format");
            return Err(Error::generic(text));
        }
        (arg, format) => format.or(arg),
    };
    let format = format.map(|name| name.parse::<Kind>()).transpose().map_err(generic)?;
    Ok(Target { name: arguments.target, format, notify: arguments.notify.unwrap_or(true) })
}

impl DiskCommands for Control {
    async fn change(&self, arguments: Change) -> Result<Empty> {
        if arguments.device == "vnc" {
            return self.change_vnc(arguments);
        }
        let drive = self.drive(&arguments.device)?;
        if drive.options.cdrom {
            return self.change_removable(drive, arguments).await;
        }
        let target = target(arguments)?;
        let name = target.name.clone();
        let switch = drive
            .handle
            .call(move |disk| async move { disk.prepare_switch(&target).await?.commit(DEADLINE).await });
        let switched = switch.await.map_err(switch_error)?;
        self.emit_switched(drive, &name, switched);
        Ok(Empty {})
    }

    async fn block_resize(&self, arguments: BlockResize) -> Result<Empty> {
        let drive = self.find(arguments.device.as_deref(), arguments.node_name.as_deref()).await?;
        let size = u64::try_from(arguments.size)
            .map_err(|_| Error::generic("Parameter 'size' expects a >0 size"))?;
        let resize = drive.handle.call(move |disk| async move { disk.resize(size).await });
        resize.await.map_err(generic)?;
        Ok(Empty {})
    }

    async fn query_block(&self, _: QueryBlock) -> Result<Vec<BlockInfo>> {
        let mut drives = Vec::new();
        for drive in &self.drives {
            drives.push(blocks::describe(drive, self.machine.is_some()).await.map_err(generic)?);
        }
        Ok(drives)
    }

    async fn query_named_block_nodes(&self, arguments: QueryNamedBlockNodes) -> Result<Vec<BlockDeviceInfo>> {
        let mut nodes = Vec::new();
        for drive in &self.drives {
            nodes.extend(blocks::images(drive, arguments.flat.unwrap_or(false)).await.map_err(generic)?);
        }
        nodes.extend(self.described(&nodes));
        Ok(nodes)
    }

    async fn query_blockstats(&self, arguments: QueryBlockstats) -> Result<Vec<BlockStats>> {
        let nodes = arguments.query_nodes.unwrap_or(false);
        let mut all = Vec::new();
        for drive in &self.drives {
            let call = drive.handle.call(|disk| async move {
                let stats = disk.stats();
                let idle = stats.idle();
                Ok((stats, idle.map(|time| time.as_nanos() as u64)))
            });
            let (stats, idle) = call.await.map_err(generic)?;
            let mut names = node_names(drive).await?.into_iter();
            all.push(BlockStats {
                device: (!nodes).then(|| drive.options.id.clone()),
                qdev: None,
                node_name: names.next(),
                stats: stats::counters(&stats, idle),
            });
            // Images behind the leaf have no counters of their own.
            let behind = names.filter(|_| nodes).map(|name| BlockStats {
                device: None,
                qdev: None,
                node_name: Some(name),
                stats: stats::counters(&Stats::default(), None),
            });
            all.extend(behind);
        }
        Ok(all)
    }
}
