//! The macros of the command table. `commands` makes everything of a file of commands: requests, trait,
//! parser, dispatch, schema and the forms of the text monitor. `groups` puts the files together.

macro_rules! commands {
    // With a trait that the machine implements.
    ($(#[$doc:meta])* $group:ident: $($entries:tt)*) => {
        commands!($($entries)*);
        commands!(@group [$(#[$doc])*] $group $($entries)*);
    };
    ($(
        $(#[doc = $doc:literal])*
        $wire:literal $method:ident: $name:ident { $($members:tt)* } -> $answer:ty
            $(as { text $usage:literal $(or $alias:literal)?: $help:literal, $read:expr => $print:expr })?
            $(as { info $topic:literal: $ask:expr => $show:expr })?;
    )*) => {
        qapi_struct! { $($(#[doc = $doc])* struct $name { $($members)* })* }

        $(
            impl Request for $name {
                const NAME: &'static str = $wire;
                type Answer = $answer;
            }

            impl From<$name> for super::Command {
                fn from(arguments: $name) -> Self {
                    Command::$name(arguments).into()
                }
            }
        )*

        /// A command of this group, with its arguments.
        #[derive(Clone, PartialEq, Debug)]
        pub enum Command {
            $($(#[doc = $doc])* $name($name)),*
        }

        impl Command {
            /// Reads a command. Fails with QEMU's texts if its arguments are wrong. Returns the arguments as
            /// `Err` if the command is not one of this group.
            pub(super) fn parse(
                name: &str,
                arguments: Map<String, Value>,
            ) -> std::result::Result<Result<Command>, Map<String, Value>> {
                match name {
                    $($wire => Ok($name::parse("", arguments.into()).map(Command::$name)),)*
                    _ => Err(arguments),
                }
            }

            /// The name on the wire.
            pub(super) fn name(&self) -> &'static str {
                match self {
                    $(Command::$name(_) => $wire),*
                }
            }
        }

        /// The commands of this group, in the order of their definition.
        pub(super) const COMMANDS: &[CommandInfo] = &[$(CommandInfo {
            name: $wire,
            doc: concat!($($doc),*).trim_ascii(),
            arguments: <$name as Qapi>::describe,
            answer: <$answer as Qapi>::describe,
        }),*];

        /// The commands of the text monitor that run one of these.
        pub(super) const TEXT_FORMS: &[hmp::TextForm] = &[$($(hmp::TextForm {
            usage: $usage,
            alias: [$($alias,)? ""][0],
            help: $help,
            run: |monitor, arguments| Box::pin(hmp::perform::<$name>(monitor, arguments, $read, $print)),
        },)?)*];

        /// The topics of `info` that run one of these.
        pub(super) const TOPICS: &[hmp::Topic] = &[$($(hmp::Topic {
            name: $topic,
            run: |monitor, arguments| Box::pin(hmp::perform::<$name>(monitor, arguments, $ask, $show)),
        },)?)*];
    };
    (@group [$($group_doc:tt)*] $group:ident $(
        $(#[$doc:meta])*
        $wire:literal $method:ident: $name:ident { $($members:tt)* } -> $answer:ty $(as $form:tt)?;
    )*) => {
        $($group_doc)*
        pub trait $group {
            $(
                $(#[$doc])*
                fn $method(&self, arguments: $name) -> impl Future<Output = Result<$answer>> {
                    let _ = arguments;
                    async { Err(Error::disabled($wire)) }
                }
            )*
        }

        /// Hands a command to the method that serves it.
        pub(super) async fn dispatch<H: $group>(handler: &H, command: Command) -> Result<Value> {
            match command {
                $(Command::$name(arguments) => {
                    handler.$method(arguments).await.map(|answer| to_value(&answer))
                })*
            }
        }
    };
}

macro_rules! groups {
    ($($variant:ident: $file:ident as $group:ident,)*) => {
        /// A command with its arguments, by the file of its entry.
        #[derive(Clone, PartialEq, Debug)]
        pub enum Command {
            /// A command that the monitor serves itself.
            Own(own::Command),
            $(
                #[doc = concat!("A command of [`", stringify!($group), "`].")]
                $variant($file::Command),
            )*
        }

        impl From<own::Command> for Command {
            fn from(command: own::Command) -> Self {
                Command::Own(command)
            }
        }

        $(
            impl From<$file::Command> for Command {
                fn from(command: $file::Command) -> Self {
                    Command::$variant(command)
                }
            }
        )*

        impl Command {
            /// Reads a command.
            ///
            /// # Errors
            /// `CommandNotFound`, or `GenericError` for its arguments, with QEMU's texts.
            pub fn parse(name: &str, arguments: Map<String, Value>) -> Result<Command> {
                let arguments = match own::Command::parse(name, arguments) {
                    Ok(command) => return command.map(Command::Own),
                    Err(arguments) => arguments,
                };
                $(
                    let arguments = match $file::Command::parse(name, arguments) {
                        Ok(command) => return command.map(Command::$variant),
                        Err(arguments) => arguments,
                    };
                )*
                drop(arguments);
                Err(Error::command_not_found(format!("The command {name} has not been found")))
            }

            /// The name on the wire.
            pub fn name(&self) -> &'static str {
                match self {
                    Command::Own(command) => command.name(),
                    $(Command::$variant(command) => command.name(),)*
                }
            }
        }

        /// The implementation of all commands: the machine. Each group is a trait, to be implemented in a
        /// file of its subject.
        ///
        /// A method runs on the monitor's executor as part of a client's task, one at a time for each
        /// client, and always to its end, even if the client is gone. It may wait as long as it needs;
        /// other clients are served meanwhile. A method that is not implemented fails with
        /// `CommandNotFound`, "Command NAME has been disabled".
        pub trait Handler: $($group +)* {}

        impl<T: $($group +)*> Handler for T {}

        /// Hands a command to the method that serves it.
        pub(crate) async fn dispatch<H: Handler>(handler: &H, command: Command) -> Result<Value> {
            match command {
                Command::Own(command) => Err(Error::disabled(command.name())),
                $(Command::$variant(command) => $file::dispatch(handler, command).await,)*
            }
        }

        /// Returns all commands, in the order of their definition.
        pub fn commands() -> impl Iterator<Item = &'static CommandInfo> {
            [own::COMMANDS, $($file::COMMANDS),*].into_iter().flatten()
        }

        /// Returns the commands of the text monitor that run one of ours.
        pub(crate) fn text_forms() -> impl Iterator<Item = &'static hmp::TextForm> {
            [own::TEXT_FORMS, $($file::TEXT_FORMS),*].into_iter().flatten()
        }

        /// Returns the topics of `info`.
        pub(crate) fn topics() -> impl Iterator<Item = &'static hmp::Topic> {
            [own::TOPICS, $($file::TOPICS),*].into_iter().flatten()
        }
    };
}
