//! Commands that the monitor serves itself.

use super::prelude::*;

commands! {
    /// Ends the negotiation of capabilities; nothing else is served before it.
    "qmp_capabilities" qmp_capabilities: QmpCapabilities {
        /// Capabilities to enable; none is offered.
        enable: Option<Vec<QMPCapability>>,
    } -> Empty;

    /// Returns the version of QMP and of this program.
    "query-version" query_version: QueryVersion {} -> VersionInfo
        as { info "version": |_| Ok(QueryVersion {}) => hmp::version };

    /// Lists all commands.
    "query-commands" query_commands: QueryCommands {} -> Vec<CommandName>;

    /// Describes all commands and events, and their types.
    "query-qmp-schema" query_qmp_schema: QueryQmpSchema {} -> Vec<SchemaInfo>;

    /// Selects whether this connection gets all events of our own, or only those after our own commands.
    "x-events" x_events: XEvents {
        /// True to get all of them.
        enable: bool,
    } -> Empty;

    /// Runs a command of the text monitor and returns what it printed.
    "human-monitor-command" human_monitor_command: HumanMonitorCommand {
        /// The command and its arguments.
        command_line as "command-line": String,
        /// The CPU to run it for; has no effect.
        cpu_index as "cpu-index": Option<i64>,
    } -> String;
}
