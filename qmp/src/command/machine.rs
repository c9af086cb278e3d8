//! The machine and the program.

use super::prelude::*;

commands! {
    /// The machine and the program.
    MachineCommands:

    /// Returns the machine's state.
    "query-status" query_status: QueryStatus {} -> StatusInfo
        as { info "status": |_| Ok(QueryStatus {}) => hmp::status };

    /// Returns the machine's name.
    "query-name" query_name: QueryName {} -> NameInfo;

    /// Stops the vCPUs and the guest's I/O.
    "stop" stop: Stop {} -> Empty
        as { text "stop" or "s": "stop the machine", |_| Ok(Stop {}) => hmp::nothing };

    /// Resumes a stopped machine.
    "cont" cont: Cont {} -> Empty
        as { text "cont" or "c": "resume a stopped machine", |_| Ok(Cont {}) => hmp::nothing };

    /// Asks the guest to power off.
    "system_powerdown" system_powerdown: SystemPowerdown {} -> Empty
        as {
            text "system_powerdown": "ask the guest to power off",
            |_| Ok(SystemPowerdown {}) => hmp::nothing
        };

    /// Resets the machine.
    "system_reset" system_reset: SystemReset {} -> Empty
        as { text "system_reset": "reset the machine", |_| Ok(SystemReset {}) => hmp::nothing };

    /// Ends the program.
    "quit" quit: Quit {} -> Empty
        as { text "quit" or "q": "end the program", |_| Ok(Quit {}) => hmp::nothing };
}
