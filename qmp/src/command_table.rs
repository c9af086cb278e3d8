//! The macro that makes everything of the command table of `command.rs`: requests, traits, dispatch,
//! schema and the forms of the text monitor. Its names are those of that file.

macro_rules! commands {
    (
        $(#[$_doc:meta])* monitor { $($own:tt)* }
        $($(#[$doc:meta])* $group:ident { $($theirs:tt)* })*
    ) => {
        commands!(@requests $($own)* $($($theirs)*)*);
        $(commands!(@group [$(#[$doc])*] $group $($theirs)*);)*
        commands!(@dispatch $($($theirs)*)*);

        /// The implementation of all commands: the machine. Each group is a trait, to be implemented in a
        /// file of its subject.
        ///
        /// A method runs on the monitor's executor as part of a client's task, one at a time for each
        /// client, and always to its end, even if the client is gone. It may wait as long as it needs;
        /// other clients are served meanwhile. A method that is not implemented fails with
        /// `CommandNotFound`, "Command NAME has been disabled".
        pub trait Handler: $($group +)* {}

        impl<T: $($group +)*> Handler for T {}
    };
    (@requests $(
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

            impl From<$name> for Command {
                fn from(arguments: $name) -> Self {
                    Command::$name(arguments)
                }
            }
        )*

        /// A command with its arguments.
        #[derive(Clone, PartialEq, Debug)]
        pub enum Command {
            $($(#[doc = $doc])* $name($name)),*
        }

        impl Command {
            /// Reads a command.
            ///
            /// # Errors
            /// `CommandNotFound`, or `GenericError` for its arguments, with QEMU's texts.
            pub fn parse(name: &str, arguments: Map<String, Value>) -> Result<Command> {
                match name {
                    $($wire => $name::parse("", arguments.into()).map(Command::$name),)*
                    _ => Err(Error::command_not_found(format!("The command {name} has not been found"))),
                }
            }

            /// The name on the wire.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Command::$name(_) => $wire),*
                }
            }
        }

        /// All commands, in the order of their definition.
        pub const COMMANDS: &[CommandInfo] = &[$(CommandInfo {
            name: $wire,
            doc: concat!($($doc),*).trim_ascii(),
            arguments: <$name as Qapi>::describe,
            answer: <$answer as Qapi>::describe,
        }),*];

        /// The commands of the text monitor that run one of ours.
        pub(crate) const TEXT_FORMS: &[hmp::TextForm] = &[$($(hmp::TextForm {
            usage: $usage,
            alias: [$($alias,)? ""][0],
            help: $help,
            run: |monitor, arguments| Box::pin(hmp::perform::<$name>(monitor, arguments, $read, $print)),
        },)?)*];

        /// The topics of `info`.
        pub(crate) const TOPICS: &[hmp::Topic] = &[$($(hmp::Topic {
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
    };
    (@dispatch $(
        $(#[$doc:meta])*
        $wire:literal $method:ident: $name:ident { $($members:tt)* } -> $answer:ty $(as $form:tt)?;
    )*) => {
        /// Hands a command to the method that serves it.
        pub(crate) async fn dispatch<H: Handler>(handler: &H, command: Command) -> Result<Value> {
            match command {
                $(Command::$name(arguments) => {
                    handler.$method(arguments).await.map(|answer| to_value(&answer))
                })*
                other => Err(Error::disabled(other.name())),
            }
        }
    };
}
