//! The screen, and the guest's keyboard and pointer.

use super::prelude::*;

commands! {
    /// The screen, and the guest's keyboard and pointer.
    ScreenCommands:

    /// Returns the VNC server's address and clients.
    "query-vnc" query_vnc: QueryVnc {} -> VncInfo
        as { info "vnc": |_| Ok(QueryVnc {}) => hmp::vnc };

    /// Sets the password of the VNC server.
    "set_password" set_password: SetPassword {
        /// The protocol: `vnc`.
        protocol: DisplayProtocol,
        /// The password, of which 8 bytes count.
        password: String,
        /// The fate of clients: `keep`, the default, is the only choice.
        connected: Option<SetPasswordAction>,
        /// The server; there is one.
        display: Option<String>,
    } -> Empty;

    /// Sets the time from which on the VNC server's password lets nobody in.
    "expire_password" expire_password: ExpirePassword {
        /// The protocol: `vnc`.
        protocol: DisplayProtocol,
        /// `now`, `never`, `+SECONDS` from now, or seconds since 1970.
        time: String,
        /// The server; there is one.
        display: Option<String>,
    } -> Empty;

    /// Writes a picture of the screen to a file.
    "screendump" screendump: Screendump {
        /// The file, which is replaced.
        filename: String,
        /// The screen; there is one.
        device: Option<String>,
        /// The head of the screen; there is one.
        head: Option<i64>,
        /// The format; `ppm` unless given.
        format: Option<ImageFormat>,
    } -> Empty
        as {
            text "screendump filename [format]": "write a picture of the screen (ppm or png)",
            hmp::screendump => hmp::nothing
        };

    /// Presses keys one after the other, and releases them together.
    "send-key" send_key: SendKey {
        /// The keys.
        keys: Vec<KeyValue>,
        /// The time between the last press and the releases in milliseconds; 100 unless given.
        hold_time as "hold-time": Option<i64>,
    } -> Empty
        as {
            text "sendkey keys [hold-ms]": "press keys together, such as ctrl-alt-f1 (names, or 0x and a scancode)",
            hmp::send_key => hmp::nothing
        };

    /// Sends events of keyboard and pointer to the guest.
    "input-send-event" input_send_event: InputSendEvent {
        /// The screen; there is one.
        device: Option<String>,
        /// The head of the screen; there is one.
        head: Option<i64>,
        /// The events.
        events: Vec<InputEvent>,
    } -> Empty;
}
