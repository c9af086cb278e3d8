//! Ports of the emulated host that its host reaches: each is taken on the address that QEMU's user network
//! forwards to, and relayed to the same port of the loopback network.

use std::io;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::thread;

use guest_agent::frames::{NETWORK_ADDRESS, NETWORK_PREFIX};
use guest_agent::interface;

/// The only network card, which the host adds if there are ports.
const CARD: &str = "eth0";

/// Relays the connections to these ports, on threads of their own, for as long as the machine runs.
pub fn relay(ports: &[u16]) -> Result<(), String> {
    if ports.is_empty() {
        return Ok(());
    }
    let failed = |error| format!("{CARD}: {error}");
    interface::add_address(CARD, NETWORK_ADDRESS, NETWORK_PREFIX).map_err(failed)?;
    interface::up(CARD).map_err(failed)?;
    for &port in ports {
        let listener = TcpListener::bind((NETWORK_ADDRESS, port));
        let listener = listener.map_err(|error| format!("port {port}: {error}"))?;
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // Without a server the client is hung up on, and comes again if it waits for one.
                thread::spawn(move || join(client, port));
            }
        });
    }
    Ok(())
}

/// Carries bytes both ways until both sides have ended.
fn join(client: TcpStream, port: u16) -> io::Result<()> {
    let server = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    for end in [&client, &server] {
        end.set_nodelay(true)?;
    }
    let (from, to) = (client.try_clone()?, server.try_clone()?);
    let there = thread::spawn(move || carry(from, to));
    carry(server, client);
    // It panics never, and has nothing to return.
    let _ = there.join();
    Ok(())
}

fn carry(mut from: TcpStream, mut to: TcpStream) {
    // An end and an error mean the same to the other side: nothing more comes.
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}
