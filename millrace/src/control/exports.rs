//! The NBD server and its exports.

use qmp::Result;
use qmp::command::*;
use qmp::types::*;

use super::Control;
use crate::exports::ExportOptions;

impl ExportCommands for Control {
    async fn nbd_server_start(&self, arguments: NbdServerStart) -> Result<Empty> {
        self.exports.start(arguments).await.map(|()| Empty {})
    }

    async fn nbd_server_add(&self, arguments: NbdServerAdd) -> Result<Empty> {
        let drive = self.find(Some(&arguments.device), Some(&arguments.device)).await?;
        let name = arguments.name.unwrap_or(arguments.device);
        let options = ExportOptions {
            id: name.clone(),
            name,
            description: arguments.description,
            // Unlike `block-export-add`, this command does not fail for a read-only disk.
            writable: arguments.writable.unwrap_or(false) && !drive.options.read_only,
            writethrough: false,
        };
        self.exports.add(drive, options).map(|()| Empty {})
    }

    async fn nbd_server_remove(&self, arguments: NbdServerRemove) -> Result<Empty> {
        self.exports.remove(&arguments.name, arguments.mode).await.map(|()| Empty {})
    }

    async fn nbd_server_stop(&self, _: NbdServerStop) -> Result<Empty> {
        self.exports.stop().await.map(|()| Empty {})
    }

    async fn block_export_add(&self, arguments: BlockExportAdd) -> Result<Empty> {
        let drive = self.find(None, Some(&arguments.node_name)).await?;
        let options = ExportOptions {
            id: arguments.id,
            name: arguments.name.unwrap_or(arguments.node_name),
            description: arguments.description,
            writable: arguments.writable.unwrap_or(false),
            writethrough: arguments.writethrough.unwrap_or(false),
        };
        self.exports.add(drive, options).map(|()| Empty {})
    }

    async fn block_export_del(&self, arguments: BlockExportDel) -> Result<Empty> {
        self.exports.remove(&arguments.id, arguments.mode).await.map(|()| Empty {})
    }

    async fn query_block_exports(&self, _: QueryBlockExports) -> Result<Vec<BlockExportInfo>> {
        Ok(self.exports.list())
    }
}
