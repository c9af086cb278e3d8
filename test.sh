#!/usr/bin/env bash
# The whole test suite. Installs what it needs when root on Debian or Ubuntu, else names it.
set -euo pipefail
cd "$(dirname "$0")"

missing=()
need() { command -v "$1" >/dev/null || [ -x "/sbin/$1" ] || missing+=("$2"); }
need cc gcc
need qemu-img qemu-utils
need mke2fs e2fsprogs
need mkfs.xfs xfsprogs
need nbdinfo libnbd-bin
need nbdsh python3-libnbd
need nbdkit nbdkit
need fio fio
need passt passt
need python3 python3
# Debian ships the module venv without what it needs.
python3 -c "import ensurepip" 2>/dev/null || missing+=(python3-venv)
if [ ${#missing[@]} -gt 0 ]; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "test.sh: install these packages first: ${missing[*]}" >&2
        exit 1
    fi
    echo "test.sh: installing ${missing[*]}"
    apt-get update -q >/dev/null
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null
fi
# VNC viewers by other authors. Tests say which of them are not here, and pass.
viewers=()
also() { [ -e "$1" ] || viewers+=("$2"); }
also /usr/bin/gvnccapture gvncviewer
also /usr/bin/vncsnapshot vncsnapshot
also /usr/bin/xtigervncviewer tigervnc-viewer
also /usr/bin/Xvfb xvfb
also /usr/include/rfb/rfbclient.h libvncserver-dev
if [ ${#viewers[@]} -gt 0 ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "test.sh: installing ${viewers[*]}"
        [ ${#missing[@]} -gt 0 ] || apt-get update -q >/dev/null
        DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${viewers[@]}" >/dev/null
    else
        echo "test.sh: these VNC viewers are not here, so trials with them are not run: ${viewers[*]}"
    fi
fi
# A real browser, for the page and the lab's report. Tests say that it is not here, and pass.
if ! command -v chromedriver >/dev/null || ! command -v chromium >/dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "test.sh: installing chromium chromium-driver"
        [ ${#missing[@]} -gt 0 ] || [ ${#viewers[@]} -gt 0 ] || apt-get update -q >/dev/null
        DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends chromium chromium-driver >/dev/null ||
            echo "test.sh: chromium cannot be had here, so the page is not tried in a browser"
    else
        echo "test.sh: chromium and chromium-driver are not here, so the page is not tried in a browser"
    fi
fi
# A few tests make loop devices, mounts, or network interfaces in a namespace of their own.
as_root=()
if [ "$(id -u)" = 0 ]; then
    as_root=(--include-ignored)
else
    echo "test.sh: not root, so tests with loop devices, full file systems, network interfaces and other users are not run"
fi
exec cargo test --workspace "$@" -- "${as_root[@]}"
