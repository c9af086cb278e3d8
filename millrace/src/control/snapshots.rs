//! Overlays, and transactions that switch several disks, or begin their backups, at one point in time.

use std::rc::Rc;

use block::job::JobOptions;
use block::step;
use block::stream::StreamOptions;
use block::switch::{DEADLINE, Overlay, Switched};
use block::{Disk, Kind};
use futures_util::future::join_all;
use qmp::command::{BlockdevSnapshotSync, Change, SnapshotCommands, Transaction, XLiveCopy};
use qmp::types::*;
use qmp::{Error, Result, event};

use super::disks::target;
use super::{Control, check_node_name, classed, copies, generic, speed};
use crate::drive::Drive;

/// One disk's part of a transaction.
struct Step {
    drive: Rc<Drive>,
    what: What,
    /// The prepared step, which the disk's thread holds.
    step: step::Step,
}

/// The change of a disk in a transaction.
enum What {
    /// It is switched to this file.
    Switch(String),
    /// This job starts.
    Job(String),
}

fn format(name: &str) -> Result<Kind> {
    name.parse().map_err(|_| Error::generic(format!("Unknown file format '{name}'")))
}

impl Control {
    /// Prepares all steps, closes all gates, then commits all steps. If anything fails before the commits,
    /// none of the steps happens.
    pub(super) async fn transact(&self, actions: Vec<TransactionAction>) -> Result<Empty> {
        let mut steps = Vec::new();
        let prepared = self.prepare(actions, &mut steps).await;
        let ready = match prepared {
            Ok(()) => close(&steps).await,
            Err(e) => Err(e),
        };
        if let Err(e) = ready {
            let abandon = |Step { what, step, .. }: Step| async move {
                step.abandon().await;
                if let What::Job(id) = what {
                    self.reports.jobs.remove(&id);
                }
            };
            join_all(steps.into_iter().map(abandon)).await;
            return Err(e);
        }
        let commits = steps.into_iter().map(|Step { drive, what, step }| async move {
            let switched = step.commit().await;
            match (what, switched) {
                (What::Switch(file), Ok(Some(switched))) => {
                    // Clients written for QEMU use these commands and do not know this event.
                    self.events.emit_extra(&switched_event(&drive, &file, switched));
                    Ok(())
                }
                (What::Job(id), Err(e)) => {
                    self.reports.jobs.remove(&id);
                    Err(generic(e))
                }
                (_, result) => result.map(drop).map_err(generic),
            }
        });
        let done: Vec<Result<()>> = join_all(commits).await;
        done.into_iter().collect::<Result<()>>().map(|()| Empty {})
    }

    async fn prepare(&self, actions: Vec<TransactionAction>, steps: &mut Vec<Step>) -> Result<()> {
        for action in actions {
            let step = match action {
                TransactionAction::Abort(_) => {
                    return Err(Error::generic("Transaction aborted using Abort action"));
                }
                TransactionAction::BlockdevSnapshotSync(arguments) => self.prepare_overlay(arguments).await?,
                TransactionAction::BlockdevBackup(arguments) => {
                    self.prepare_backup(self.plan_node_backup(arguments).await?).await?
                }
                TransactionAction::DriveBackup(arguments) => {
                    self.prepare_backup(self.plan_backup(arguments).await?).await?
                }
                TransactionAction::Change(arguments) => self.prepare_change(arguments).await?,
            };
            steps.push(step);
        }
        Ok(())
    }

    async fn prepare_overlay(&self, arguments: BlockdevSnapshotSync) -> Result<Step> {
        let drive = self.find(arguments.device.as_deref(), arguments.node_name.as_deref()).await?;
        if let Some(name) = &arguments.snapshot_node_name {
            if self.is_named(name).await? {
                return Err(Error::generic("New overlay node-name already in use"));
            }
            check_node_name(name).map_err(Error::generic)?;
        }
        let overlay = Overlay {
            name: arguments.snapshot_file.clone(),
            format: format(arguments.format.as_deref().unwrap_or("qcow2"))?,
            existing: arguments.mode == Some(NewImageMode::Existing),
            node_name: arguments.snapshot_node_name,
            notify: true,
        };
        let prepare = move |disk: Rc<Disk>| async move { disk.prepare_overlay(&overlay).await };
        let step = step::Step::prepare(&drive.handle, prepare).await.map_err(generic)?;
        Ok(Step { drive: drive.clone(), what: What::Switch(arguments.snapshot_file), step })
    }

    async fn prepare_backup(&self, planned: copies::Planned) -> Result<Step> {
        let (drive, id) = (planned.drive.clone(), planned.options.id.clone());
        match planned.prepare_on_disk().await {
            Ok(step) => Ok(Step { drive, what: What::Job(id), step }),
            Err(e) => {
                self.reports.jobs.remove(&id);
                Err(generic(e))
            }
        }
    }

    async fn prepare_change(&self, arguments: Change) -> Result<Step> {
        let drive = self.drive(&arguments.device)?;
        let target = target(arguments)?;
        let file = target.name.clone();
        let prepare = move |disk: Rc<Disk>| async move { disk.prepare_switch(&target).await };
        let step = step::Step::prepare(&drive.handle, prepare).await.map_err(generic)?;
        Ok(Step { drive: drive.clone(), what: What::Switch(file), step })
    }

    /// Sends the event of a switch to all clients, after a command that is our own.
    pub(super) fn emit_switched(&self, drive: &Drive, file: &str, switched: Switched) {
        self.events.emit(&switched_event(drive, file, switched));
    }
}

fn switched_event(drive: &Drive, file: &str, switched: Switched) -> event::BlockSwitched {
    event::BlockSwitched {
        device: drive.options.id.clone(),
        file: file.to_owned(),
        blackout: switched.blackout.as_micros() as u64,
    }
}

/// Closes the gates of all disks at once: from then to the first switch no request is in flight anywhere.
async fn close(steps: &[Step]) -> Result<()> {
    let closes = join_all(steps.iter().map(|step| step.step.close(DEADLINE))).await;
    closes.into_iter().collect::<block::Result<()>>().map_err(generic)
}

impl SnapshotCommands for Control {
    async fn blockdev_snapshot_sync(&self, arguments: BlockdevSnapshotSync) -> Result<Empty> {
        self.transact(vec![TransactionAction::BlockdevSnapshotSync(arguments)]).await
    }

    async fn transaction(&self, arguments: Transaction) -> Result<Empty> {
        if let Some(action) = arguments.actions.first()
            && arguments.properties.and_then(|properties| properties.completion_mode)
                == Some(ActionCompletionMode::Grouped)
        {
            // QEMU has that mode for actions that start jobs. Here jobs end one by one.
            let text = format!(
                "Action '{}' does not support transaction property completion-mode = grouped",
                action.kind()
            );
            return Err(Error::generic(text));
        }
        self.transact(arguments.actions).await
    }

    async fn x_live_copy(&self, arguments: XLiveCopy) -> Result<Empty> {
        let drive = self.drive(&arguments.device)?;
        let speed = speed(arguments.speed)?;
        let overlay = Overlay {
            name: arguments.target.clone(),
            format: format(&arguments.format)?,
            existing: false,
            node_name: None,
            notify: arguments.notify.unwrap_or(true),
        };
        let id = arguments.job_id.unwrap_or_else(|| drive.options.id.clone());
        let options = JobOptions { speed, ..JobOptions::block_stream(&id) };
        self.reports.jobs.take(&id, drive)?;
        let copy = drive.handle.call(move |disk| async move {
            let switched = disk.prepare_overlay(&overlay).await?.commit(DEADLINE).await?;
            // Nothing else can use the disk in between: nothing is awaited since the switch released it.
            disk.start_stream(StreamOptions::default(), options).await?;
            Ok(switched)
        });
        let switched = copy.await.map_err(|e| {
            self.reports.jobs.remove(&id);
            classed(e)
        })?;
        self.emit_switched(drive, &arguments.target, switched);
        Ok(Empty {})
    }
}
