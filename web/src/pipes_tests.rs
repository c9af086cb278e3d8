use super::{Address, MOST, Tickets, socket_of};

fn address(name: &str) -> Address {
    Address(name.into())
}

#[test]
fn a_ticket_opens_one_pipe_once() {
    let tickets = Tickets::default();
    let (one, other) = (tickets.issue(address("one")).unwrap(), tickets.issue(address("other")).unwrap());
    assert_eq!(tickets.take("guessed"), None);
    assert_eq!(tickets.take(&one), Some(address("one")));
    assert_eq!(tickets.take(&one), None);
    assert_eq!(tickets.take(&other), Some(address("other")));
}

#[test]
fn tickets_that_nobody_uses_do_not_pile_up() {
    let tickets = Tickets::default();
    let first = tickets.issue(address("first")).unwrap();
    for _ in 0..MOST {
        tickets.issue(address("more")).unwrap();
    }
    assert_eq!(tickets.take(&first), None);
}

#[test]
fn the_socket_of_a_serial_port_is_in_its_filename() {
    assert_eq!(socket_of("unix:/run/serial,server=on"), Some("/run/serial"));
    assert_eq!(socket_of("disconnected:unix:/run/serial,server=on"), Some("/run/serial"));
    assert_eq!(socket_of("unix:/run/serial"), Some("/run/serial"));
    assert_eq!(socket_of("file"), None);
    assert_eq!(socket_of("null"), None);
}
