//! What is known of a machine, for every page that watches it.
//!
//! A task for each machine keeps a connection to its monitor, and asks it for news while somebody watches. It
//! asks nothing while nobody does.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::sync::{Notify, broadcast, mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::connector::Connector;
use crate::monitor::{Monitor, MonitorError};

/// The time between two looks at latencies and maps.
const TICK: Duration = Duration::from_millis(100);
/// The time between two looks at everything else, unless an event comes.
const STATE: Duration = Duration::from_millis(500);
/// The time between two attempts to connect.
const AGAIN: Duration = Duration::from_millis(500);
/// The news that a page may be behind, before it has to ask for everything anew.
const NEWS: usize = 256;

/// A machine. See the module.
pub struct Machine {
    /// The monitor's socket.
    pub socket: PathBuf,
    /// The place among the machines that were named at start.
    pub number: usize,
    connector: Connector,
    news: broadcast::Sender<Arc<str>>,
    /// The last state, for pages that come later.
    state: Mutex<Option<Arc<str>>>,
    /// The connection for commands of pages, while there is one. A command may take long there, and holds up
    /// no news.
    commands: watch::Sender<Option<Arc<Monitor>>>,
    wake: Notify,
}

impl Machine {
    /// Creates a machine that is not connected yet.
    pub fn new(number: usize, socket: PathBuf, connector: Connector) -> Arc<Self> {
        let (news, commands) = (broadcast::channel(NEWS).0, watch::channel(None).0);
        let (state, wake) = (Mutex::new(None), Notify::new());
        Arc::new(Machine { socket, number, connector, news, state, commands, wake })
    }

    /// Begins to watch. Returns the last known state, and the news from now on.
    pub fn watch(&self) -> (Option<Arc<str>>, broadcast::Receiver<Arc<str>>) {
        let news = self.news.subscribe();
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.wake.notify_one();
        (state, news)
    }

    /// Sends a page's command. Returns the reply, with `return` or `error`.
    ///
    /// # Errors
    /// If the machine is not connected, or the connection ends.
    pub async fn execute(&self, command: &str, arguments: &Value) -> Result<Value, MonitorError> {
        let monitor = self.commands.borrow().clone().ok_or(MonitorError::Closed)?;
        monitor.execute(command, arguments).await
    }

    fn publish(&self, key: &str, value: Value) -> Arc<str> {
        let mut message = Map::new();
        message.insert("m".to_owned(), self.number.into());
        message.insert(key.to_owned(), value);
        let message: Arc<str> = Value::Object(message).to_string().into();
        // There may be nobody.
        let _ = self.news.send(Arc::clone(&message));
        message
    }

    /// Follows the machine for ever.
    pub async fn follow(self: Arc<Self>) {
        loop {
            if self.connected().await.is_err() {
                *self.state.lock().unwrap_or_else(PoisonError::into_inner) = None;
                if self.commands.send_replace(None).is_some() {
                    self.publish("up", false.into());
                }
            }
            sleep(AGAIN).await;
        }
    }

    /// Follows the machine for as long as it is connected.
    async fn connected(&self) -> Result<(), MonitorError> {
        self.commands
            .send_replace(Some(Arc::new(Monitor::connect(&self.connector, self.number, |_| ()).await?)));
        let (sender, mut events) = mpsc::channel(NEWS);
        // More events than fit here are dropped: pages get the state that they led to.
        let monitor =
            Monitor::connect(&self.connector, self.number, move |event| drop(sender.try_send(event))).await?;
        self.report(&monitor, &mut events).await
    }

    /// Publishes what a monitor says for as long as it is connected.
    pub(crate) async fn report(
        &self,
        monitor: &Monitor,
        events: &mut mpsc::Receiver<Value>,
    ) -> Result<(), MonitorError> {
        // So that every switch is reported, whoever asked for it.
        monitor.query("x-events", json!({"enable": true})).await?;
        self.publish("up", true.into());
        let mut since = Since::default();
        let mut due = Instant::now();
        loop {
            if self.news.receiver_count() == 0 {
                since = Since::default();
                // A machine that ends meanwhile is noticed at the next look, or by the event that says so.
                tokio::select! {
                    () = self.wake.notified() => (),
                    event = events.recv() => drop(event.ok_or(MonitorError::Closed)?),
                }
                due = Instant::now();
                continue;
            }
            if Instant::now() >= due {
                let state = self.look(monitor).await?;
                let state = self.publish("state", state);
                *self.state.lock().unwrap_or_else(PoisonError::into_inner) = Some(state);
                due = Instant::now() + STATE;
            }
            self.changes(monitor, &mut since).await?;
            match timeout(TICK, events.recv()).await {
                Ok(event) => {
                    self.publish("event", event.ok_or(MonitorError::Closed)?);
                    due = Instant::now();
                }
                // No event.
                Err(_) => continue,
            }
        }
    }

    /// Returns the machine's state.
    async fn look(&self, monitor: &Monitor) -> Result<Value, MonitorError> {
        let mut state = Map::new();
        for (key, command) in [
            ("status", "query-status"),
            ("name", "query-name"),
            ("disks", "query-block"),
            ("nodes", "query-named-block-nodes"),
            ("stats", "query-blockstats"),
            ("jobs", "query-jobs"),
            ("block-jobs", "query-block-jobs"),
            ("streams", "query-block-stream"),
            ("exports", "query-block-exports"),
            ("chardevs", "query-chardev"),
            ("vnc", "query-vnc"),
        ] {
            state.insert(key.to_owned(), monitor.query(command, json!({})).await?);
        }
        Ok(Value::Object(state))
    }

    /// Publishes what has changed of each disk's latencies and map.
    async fn changes(&self, monitor: &Monitor, since: &mut Since) -> Result<(), MonitorError> {
        let disks = monitor.query("query-block", json!({})).await?;
        let names = disks.as_array().into_iter().flatten().filter_map(|disk| disk["device"].as_str());
        for device in names.take(64) {
            for (command, key) in [("x-query-latency", "latency"), ("x-query-block-map", "map")] {
                let last = since.0.get(&(device.to_owned(), key));
                let mut arguments = json!({"device": device});
                match last {
                    Some(last) => arguments["since"] = last.clone(),
                    // The generation is wanted, and nothing else.
                    None if key == "map" => arguments["cells"] = 1.into(),
                    None => {}
                }
                let next_of = |reply: &Value| reply[if key == "map" { "generation" } else { "next" }].clone();
                let mut reply = monitor.query(command, arguments.clone()).await?;
                let next = next_of(&reply);
                if next.is_null() {
                    continue;
                }
                loop {
                    // Of the first answer, only the generation is used: pages ask for everything themselves,
                    // now that nothing after it will be missed. So do they if everything may have changed.
                    if last.is_none() || reply["resync"] == true {
                        self.publish(key, json!({"device": device, "reply": {"resync": true}}));
                        break;
                    }
                    let rest = if key == "map" { reply["next"].take() } else { Value::Null };
                    if has_news(&reply) {
                        // Its runs count from there.
                        reply["first"] = arguments["first"].clone();
                        self.publish(key, json!({"device": device, "reply": reply}));
                    }
                    if rest.is_null() {
                        break;
                    }
                    arguments["first"] = rest;
                    reply = monitor.query(command, arguments.clone()).await?;
                }
                since.0.insert((device.to_owned(), key), next);
            }
        }
        Ok(())
    }
}

/// Returns true if an answer has something that a page has not seen.
fn has_news(reply: &Value) -> bool {
    let filled = |key: &str| reply[key].as_str().is_some_and(|runs| !runs.is_empty());
    filled("runs") || reply["intervals"].as_array().is_some_and(|all| !all.is_empty())
}

/// The last generation of each disk's latencies and map that was published.
#[derive(Default)]
struct Since(std::collections::BTreeMap<(String, &'static str), Value>);
