//! Boots a kernel with nothing but serial ports and two entropy devices, to try the machine by hand:
//!
//! `boot KERNEL INITRD CPUS MIB [MILLISECONDS:button|stop|resume|reset|quit]...`
//!
//! Exits with 0 when the guest powers itself off; resets the machine when the guest asks for it.

use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use executor::{AsyncFd, Executor, Reply, Thread, spawn, timeout};
use virtio::{Activation, Device, Interrupt, ReadyQueue};
use virtio_queue::{QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestMemoryMmap};
use vmm::serial::Backend;
use vmm::{Config, DEFAULT_CMDLINE, Event, Machine};

/// A virtio entropy device (virtio 1.2, 5.4) whose "random" bytes count up.
struct Counter {
    thread: Thread,
    stop: Option<std::sync::mpsc::Receiver<()>>,
    end: Option<vmm_sys_util::eventfd::EventFd>,
}

impl Counter {
    fn new() -> io::Result<Self> {
        Ok(Counter { thread: Thread::start("counter", std::future::pending)?, stop: None, end: None })
    }
}

fn fill(
    memory: &GuestMemoryMmap,
    ready: &mut ReadyQueue,
    next: &mut u8,
    interrupt: &dyn Interrupt,
) -> Result<(), virtio_queue::Error> {
    while let Some(chain) = ready.queue.iter(memory)?.next() {
        let head = chain.head_index();
        let mut written = 0;
        for descriptor in chain.writable() {
            for offset in 0..u64::from(descriptor.len()) {
                *next = next.wrapping_add(1);
                let address = vm_memory::GuestAddress(descriptor.addr().0 + offset);
                if memory.write_obj(*next, address).is_err() {
                    interrupt.needs_reset();
                    return Ok(());
                }
            }
            written += descriptor.len();
        }
        ready.queue.add_used(memory, head, written)?;
    }
    interrupt.used(ready.index);
    Ok(())
}

impl Device for Counter {
    fn id(&self) -> u32 {
        4
    }
    fn features(&self) -> u64 {
        1 << 32
    }
    fn queue_sizes(&self) -> Vec<u16> {
        vec![8]
    }
    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}
    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        let (stopped, stop) = std::sync::mpsc::channel();
        let end = vmm_sys_util::eventfd::EventFd::new(libc::EFD_NONBLOCK)?;
        self.stop = Some(stop);
        self.end = Some(end.try_clone()?);
        self.thread.remote().spawn(move || async move {
            let Activation { memory, mut queues, interrupt, .. } = activation;
            let Some(mut ready) = queues.pop() else { return };
            let (Ok(kick), Ok(end)) = (ready.kick.try_clone().and_then(AsyncFd::new), AsyncFd::new(end))
            else {
                return;
            };
            let mut next = 0;
            let work = spawn(async move {
                loop {
                    if fill(&memory, &mut ready, &mut next, &*interrupt).is_err() {
                        interrupt.needs_reset();
                        return;
                    }
                    kick.readable().await;
                    kick.clear_readable();
                }
            });
            end.readable().await;
            work.cancel();
            work.await;
            let _ = stopped.send(());
        });
        Ok(())
    }
    fn reset(&mut self) {
        if let (Some(stop), Some(end)) = (self.stop.take(), self.end.take()) {
            let _ = end.write(1);
            let _ = stop.recv();
        }
    }
    fn pause(&mut self) -> Reply<()> {
        self.thread.remote().call(|| async {})
    }
    fn resume(&mut self) {}
}

async fn run(arguments: Vec<String>) -> Result<i32, Box<dyn std::error::Error>> {
    let [kernel, initrd, cpus, mib, script @ ..] = &arguments[..] else {
        return Err("usage: boot KERNEL INITRD CPUS MIB [MILLISECONDS:ACTION]...".into());
    };
    let extra = std::env::var("CMDLINE").unwrap_or_default();
    let config = Config {
        kernel: kernel.into(),
        initrd: (!initrd.is_empty()).then(|| initrd.into()),
        cmdline: std::env::var("WHOLE_CMDLINE").unwrap_or(format!("{DEFAULT_CMDLINE} {extra}")),
        cpus: cpus.parse()?,
        memory: mib.parse::<u64>()? << 20,
        sandbox: sandbox::Mode::Strict,
    };
    let serial: Vec<Backend> = std::env::var("SERIAL")
        .unwrap_or("stdio".into())
        .split(',')
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    let devices: Vec<Box<dyn Device>> = vec![Box::new(Counter::new()?), Box::new(Counter::new()?)];
    let machine = Rc::new(Machine::new(Machine::prepare(&config)?, devices, &serial)?);
    let start = Instant::now();
    machine.start().await?;
    eprintln!("[{:?} started]", start.elapsed());
    for step in script {
        let (after, action) = step.split_once(':').ok_or("MILLISECONDS:ACTION")?;
        let (after, action) = (Duration::from_millis(after.parse()?), action.to_owned());
        let machine = machine.clone();
        spawn(async move {
            executor::sleep(after).await;
            let begin = Instant::now();
            let done = match &*action {
                "button" => machine.power_button(),
                "stop" => {
                    machine.stop().await;
                    Ok(())
                }
                "resume" => machine.resume().await.map(drop),
                "reset" => machine.reset().await,
                _ => {
                    machine.shutdown().await;
                    std::process::exit(0);
                }
            };
            eprintln!("[{action}: {done:?} in {:?}, {:?}]", begin.elapsed(), machine.state());
        });
    }
    loop {
        let Some(event) = timeout(Duration::from_secs(120), machine.event()).await else {
            return Err("nothing happened for two minutes".into());
        };
        eprintln!("[{:?} {event:?} {:?}]", start.elapsed(), machine.state());
        let code = match event {
            Event::Reset | Event::TripleFault => {
                let begin = Instant::now();
                machine.reset().await?;
                eprintln!("[reset in {:?}]", begin.elapsed());
                continue;
            }
            Event::PowerOff | Event::Quit => 0,
            Event::Panicked | Event::Failed(_) => 1,
        };
        let begin = Instant::now();
        machine.shutdown().await;
        eprintln!("[shut down in {:?}]", begin.elapsed());
        return Ok(code);
    }
}

fn main() {
    let arguments = std::env::args().skip(1).collect();
    let code = Executor::new().and_then(|executor| {
        executor.block_on(async {
            Ok(run(arguments).await.unwrap_or_else(|e| {
                eprintln!("boot: {e}");
                1
            }))
        })
    });
    std::process::exit(code.unwrap_or(1));
}
