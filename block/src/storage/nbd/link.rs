//! The connection to an export, which is made again whenever it is lost.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use executor::sync::Event;

use super::{Client, Errno, Error, ErrorKind, Patience, RequestError, Result, Uri, client, kind};

/// The pause before a second attempt; it doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

enum State {
    Up(Rc<Client>),
    /// The time of the loss, and the reason.
    Down(Duration, String),
}

struct Inner {
    name: String,
    uri: Uri,
    patience: Patience,
    writable: bool,
    state: RefCell<State>,
    changed: Event,
    terms: Cell<client::Terms>,
    losses: Cell<u64>,
    closed: Cell<bool>,
}

/// A connection to an export, which is closed when this is dropped.
pub(super) struct Link(Rc<Inner>);

impl Link {
    /// Connects once.
    pub(super) async fn open(name: &str, uri: Uri, patience: Patience, writable: bool) -> Result<Self> {
        let client = connect(name, &uri, patience, writable).await?;
        let terms = *client.terms();
        let inner = Rc::new(Inner {
            name: name.to_owned(),
            uri,
            patience,
            writable,
            state: RefCell::new(State::Up(client)),
            changed: Event::new(),
            terms: Cell::new(terms),
            losses: Cell::new(0),
            closed: Cell::new(false),
        });
        executor::spawn(inner.clone().keep());
        Ok(Link(inner))
    }

    pub(super) fn name(&self) -> &str {
        &self.0.name
    }

    pub(super) fn size(&self) -> u64 {
        self.0.terms.get().size
    }

    pub(super) fn min_block(&self) -> u64 {
        u64::from(self.0.terms.get().min_block)
    }

    pub(super) fn max_payload(&self) -> u64 {
        u64::from(self.0.terms.get().max_payload)
    }

    pub(super) fn can_flush(&self) -> bool {
        self.0.terms.get().can_flush()
    }

    pub(super) fn can_write_zeroes(&self) -> bool {
        self.0.terms.get().can_write_zeroes()
    }

    pub(super) fn can_trim(&self) -> bool {
        self.0.terms.get().can_trim()
    }

    pub(super) fn has_status(&self) -> bool {
        self.0.terms.get().has_status()
    }

    /// Number of connections that were lost.
    pub(super) fn losses(&self) -> u64 {
        self.0.losses.get()
    }

    /// Sends a request, again on a later connection if one is lost, until `reconnect-delay` after the
    /// first loss.
    pub(super) async fn run<T>(
        &self,
        doing: &str,
        at: u64,
        request: impl AsyncFn(&Client) -> std::result::Result<T, RequestError>,
    ) -> Result<T> {
        let inner = &self.0;
        let fail = |kind, why: &dyn std::fmt::Display| {
            Error::new(kind, format!("{doing} {} at {at}: {why}", inner.name))
        };
        let mut deadline = None;
        loop {
            let client = inner.client(deadline).await.map_err(|why| fail(ErrorKind::Io, &why))?;
            match request(&client).await {
                Ok(value) => return Ok(value),
                Err(RequestError::Refused(e)) if e.errno != Errno::Shutdown => {
                    return Err(fail(kind(e.errno), &e).with_errno(e.errno as i32));
                }
                Err(e) => {
                    // A server that is shutting down is as good as gone.
                    client.hang_up(&e.to_string());
                    let deadline = *deadline.get_or_insert(executor::now() + inner.patience.reconnect);
                    if executor::now() >= deadline {
                        return Err(fail(ErrorKind::Io, &e));
                    }
                }
            }
        }
    }
}

impl Link {
    /// Waits until there is a connection, or `reconnect-delay` after its loss.
    pub(super) async fn returned(&self) {
        // The reason is that of the attempt to open the export again, too.
        let _ = self.0.client(None).await;
    }

    /// Ends the connection for good.
    pub(super) fn close(&self) {
        self.0.closed.set(true);
        let state = self.0.state.replace(State::Down(Duration::ZERO, "closed".into()));
        // Dropping the client says goodbye to the server; the notification wakes `keep`.
        drop(state);
        self.0.changed.notify();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.close();
    }
}

impl Inner {
    /// Waits for a client that is connected. Fails with the reason if there is none within the time that
    /// requests wait.
    async fn client(&self, deadline: Option<Duration>) -> std::result::Result<Rc<Client>, String> {
        loop {
            let since = match &*self.state.borrow() {
                State::Up(client) if client.end().is_none() => return Ok(client.clone()),
                State::Up(_) => None,
                State::Down(since, _) => Some(*since),
            };
            let Some(since) = since else {
                // `keep` is about to notice.
                executor::yield_now().await;
                continue;
            };
            let until = deadline.unwrap_or(since + self.patience.reconnect);
            let left = until.saturating_sub(executor::now());
            let waited = executor::timeout(left, self.changed.wait()).await;
            if waited.is_none()
                && let State::Down(_, why) = &*self.state.borrow()
            {
                return Err(format!("no connection: {why}"));
            }
        }
    }

    /// Connects again whenever the connection ends.
    async fn keep(self: Rc<Self>) {
        let mut pause = Duration::ZERO;
        loop {
            let ended = match &*self.state.borrow() {
                State::Up(client) => client.ended(),
                State::Down(..) => return,
            };
            let since = executor::now();
            let why = ended.await;
            if self.closed.get() {
                return;
            }
            executor::limited!(warn, "{}: {why}; connecting again", self.name);
            self.losses.update(|n| n + 1);
            let lost = self.state.replace(State::Down(executor::now(), why.to_string()));
            drop(lost);
            self.changed.notify();
            if executor::now().saturating_sub(since) >= LONGEST_PAUSE {
                // Connects again at once, unless connections are lost again and again.
                pause = Duration::ZERO;
            }
            let client = loop {
                // Ends early if the link is closed.
                let _ = executor::timeout(pause, self.closing()).await;
                pause = (pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
                let again = if self.closed.get() { None } else { Some(self.again().await) };
                match again {
                    Some(Ok(client)) if !self.closed.get() => break client,
                    Some(Err(e)) => self.still_down(&e),
                    _ => return,
                }
            };
            executor::limited!(info, "{}: connected again", self.name);
            self.terms.set(*client.terms());
            *self.state.borrow_mut() = State::Up(client);
            self.changed.notify();
        }
    }

    fn still_down(&self, e: &Error) {
        if let State::Down(_, why) = &mut *self.state.borrow_mut() {
            *why = e.to_string();
        }
    }

    async fn closing(&self) {
        while !self.closed.get() {
            self.changed.wait().await;
        }
    }

    async fn again(&self) -> Result<Rc<Client>> {
        let client = connect(&self.name, &self.uri, self.patience, self.writable).await?;
        let (old, new) = (self.terms.get(), *client.terms());
        // The formats above rely on the size and unit that they were opened with.
        if new.size < old.size || new.min_block > old.min_block {
            let text = format!("{}: the export came back smaller, or with larger blocks", self.name);
            return Err(Error::new(ErrorKind::Invalid, text));
        }
        Ok(client)
    }
}

async fn connect(name: &str, uri: &Uri, patience: Patience, writable: bool) -> Result<Rc<Client>> {
    let wrong = |kind, why: &dyn std::fmt::Display| Error::new(kind, format!("{name}: {why}"));
    let (address, answer) = (uri.address.clone(), patience.answer);
    let made = async {
        let connection = executor::connecting(move || address.connect(answer)).await;
        let connection = connection.map_err(|e| wrong(ErrorKind::Io, &e))?;
        let offer = client::negotiate(&connection, &uri.export).await;
        let offer = offer.map_err(|e| wrong(ErrorKind::Io, &e))?;
        if writable && offer.terms.is_read_only() {
            return Err(wrong(ErrorKind::ReadOnly, &"the server exports it read-only"));
        }
        let client = Client::new(&connection, offer, answer).map_err(|e| wrong(ErrorKind::Io, &e))?;
        Ok(Rc::new(client))
    };
    let silent = format!("the server did not answer for {} s", answer.as_secs());
    executor::timeout(answer, made).await.unwrap_or_else(|| Err(wrong(ErrorKind::TimedOut, &silent)))
}
