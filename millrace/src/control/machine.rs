//! The machine and the program: state, start and stop.

use qmp::command::*;
use qmp::types::*;
use qmp::{Error, Result, event};
use vmm::State;

use super::{Control, End};

impl Control {
    /// Sends `STOP` or `RESUME` if the machine has changed between running and not running since the last of
    /// these events. A start sends none if the machine runs from then on. Must be called at the end of
    /// everything that changes the machine's state, before anything else is awaited.
    pub(crate) fn emit_run_state(&self) {
        let state = self.run_state();
        if state == RunState::Prelaunch {
            return;
        }
        let running = state == RunState::Running;
        match (self.reported_running.replace(running), running) {
            (true, false) => self.events.emit(&event::Stopped {}),
            (false, true) => self.events.emit(&event::Resumed {}),
            _ => {}
        }
    }

    fn run_state(&self) -> RunState {
        match &self.machine {
            None if self.stopped.get() => RunState::Paused,
            None => RunState::Running,
            Some(machine) => match machine.state() {
                State::Created => RunState::Prelaunch,
                State::Running => RunState::Running,
                State::Paused if self.io_stopped.get() => RunState::IoError,
                State::Paused => RunState::Paused,
                State::Ended | State::Gone => RunState::Shutdown,
            },
        }
    }
}

impl MachineCommands for Control {
    async fn query_status(&self, _: QueryStatus) -> Result<StatusInfo> {
        let status = self.run_state();
        Ok(StatusInfo { running: status == RunState::Running, status })
    }

    async fn query_name(&self, _: QueryName) -> Result<NameInfo> {
        Ok(NameInfo { name: None })
    }

    async fn stop(&self, _: Stop) -> Result<Empty> {
        match &self.machine {
            Some(machine) => _ = machine.stop().await,
            None => self.stopped.set(true),
        }
        // Requests that were in flight may have failed; their events come before `STOP`.
        self.emit_io_errors();
        self.emit_run_state();
        Ok(Empty {})
    }

    async fn cont(&self, _: Cont) -> Result<Empty> {
        let resumed = match &self.machine {
            Some(machine) => machine.resume().await.map_err(|e| Error::generic(e.to_string()))?,
            None => self.stopped.replace(false),
        };
        // If the machine was running already, a stop may be under way for an error that was already
        // reported.
        if resumed {
            self.clear_io_errors();
        }
        self.emit_run_state();
        Ok(Empty {})
    }

    async fn system_powerdown(&self, _: SystemPowerdown) -> Result<Empty> {
        if let Some(machine) = &self.machine {
            machine.power_button().map_err(|e| Error::generic(e.to_string()))?;
        }
        self.events.emit(&event::Powerdown {});
        Ok(Empty {})
    }

    async fn system_reset(&self, _: SystemReset) -> Result<Empty> {
        let reset = match &self.machine {
            Some(machine) => machine.reset().await,
            None => Ok(()),
        };
        if reset.is_ok() {
            // After a reset no request waits for 'cont' to retry it.
            self.io_stopped.set(false);
            self.events.emit(&event::Reset { guest: false, reason: ShutdownCause::HostQmpSystemReset });
        }
        // A machine whose reset failed does not run any more.
        self.emit_run_state();
        reset.map(|()| Empty {}).map_err(|e| Error::generic(e.to_string()))
    }

    async fn quit(&self, _: Quit) -> Result<Empty> {
        self.end(End::Quit(ShutdownCause::HostQmpQuit));
        Ok(Empty {})
    }
}
