//! The screen, its clients, and input.

use crate::schema::{qapi_enum, qapi_struct, qapi_union};
use crate::types::QKeyCode;

qapi_enum! {
    /// A kind of address.
    enum NetworkAddressFamily {
        /// IPv4.
        Ipv4 = "ipv4",
        /// IPv6.
        Ipv6 = "ipv6",
        /// A Unix socket.
        Unix = "unix",
        /// Any other.
        Unknown = "unknown",
    }

    /// A protocol that shows the screen.
    enum DisplayProtocol {
        /// VNC.
        Vnc = "vnc",
        /// Spice, which this program does not have.
        Spice = "spice",
    }

    /// The fate of clients when the password changes.
    enum SetPasswordAction {
        /// They stay.
        Keep = "keep",
        /// The change fails if there are any.
        Fail = "fail",
        /// They are disconnected.
        Disconnect = "disconnect",
    }

    /// The format of a picture.
    enum ImageFormat {
        /// PPM, the binary form.
        Ppm = "ppm",
        /// PNG.
        Png = "png",
    }

    /// A button of the pointer, or a step of its wheels.
    enum InputButton {
        /// The left button.
        Left = "left",
        /// The middle button.
        Middle = "middle",
        /// The right button.
        Right = "right",
        /// The wheel, away from the user.
        WheelUp = "wheel-up",
        /// The wheel, towards the user.
        WheelDown = "wheel-down",
        /// A button at the side.
        Side = "side",
        /// Another button at the side.
        Extra = "extra",
        /// The horizontal wheel, to the left.
        WheelLeft = "wheel-left",
        /// The horizontal wheel, to the right.
        WheelRight = "wheel-right",
        /// A finger on a touch screen, which this machine does not have.
        Touch = "touch",
    }

    /// A direction.
    enum InputAxis {
        /// To the right.
        X = "x",
        /// Down.
        Y = "y",
    }
}

qapi_struct! {
    /// One end of a connection.
    struct VncBasicInfo {
        /// The address.
        host: String,
        /// The port or the socket's path.
        service: String,
        /// The kind of address.
        family: NetworkAddressFamily,
        /// True if the connection is a WebSocket; there are none.
        websocket: bool,
    }

    /// The server's end of a connection.
    struct VncServerInfo {
        /// The address.
        host: String,
        /// The port or the socket's path.
        service: String,
        /// The kind of address.
        family: NetworkAddressFamily,
        /// True if the connection is a WebSocket; there are none.
        websocket: bool,
        /// The way in which clients prove who they are.
        auth: Option<String>,
    }

    /// A client.
    struct VncClientInfo {
        /// The address.
        host: String,
        /// The port or the socket's path.
        service: String,
        /// The kind of address.
        family: NetworkAddressFamily,
        /// True if the connection is a WebSocket; there are none.
        websocket: bool,
    }

    /// The VNC server and its clients.
    struct VncInfo {
        /// True if there is one.
        enabled: bool,
        /// The address that it listens on.
        host: Option<String>,
        /// The kind of address.
        family: Option<NetworkAddressFamily>,
        /// The port or the socket's path.
        service: Option<String>,
        /// The way in which clients prove who they are.
        auth: Option<String>,
        /// The clients that have logged in.
        clients: Option<Vec<VncClientInfo>>,
    }

    /// A key that goes down or up.
    struct InputKeyEvent {
        /// The key.
        key: KeyValue,
        /// True for down.
        down: bool,
    }

    /// A button that goes down or up.
    struct InputBtnEvent {
        /// The button.
        button: InputButton,
        /// True for down.
        down: bool,
    }

    /// A movement of the pointer.
    struct InputMoveEvent {
        /// The direction.
        axis: InputAxis,
        /// The distance, or the position from 0 to 32767.
        value: i64,
    }
}

qapi_union! {
    /// A key by its number or its name.
    union KeyValue {
        /// An XT scancode; 128 more for keys with the prefix 0xe0.
        Number(i64) = "number",
        /// A name.
        Qcode(QKeyCode) = "qcode",
    }

    /// Something that a keyboard or a pointer does.
    union InputEvent {
        /// A key.
        Key(InputKeyEvent) = "key",
        /// A button.
        Btn(InputBtnEvent) = "btn",
        /// A relative movement, for which the guest has no device.
        Rel(InputMoveEvent) = "rel",
        /// An absolute position.
        Abs(InputMoveEvent) = "abs",
    }
}
