# shellcheck shell=bash
# promtool, which checks alerts and metrics: taken out of Debian's package `prometheus`, whose server
# is neither installed nor started. A program, not a service: only present and install.

PROMTOOL=$SERVICES/promtool

promtool_present() { [ -x "$PROMTOOL" ]; }

promtool_install() {
  local making=$SERVICES/promtool.making
  command -v apt-get > /dev/null || die "promtool is missing and there is no apt-get: put it at $PROMTOOL"
  rm -rf "$making"
  mkdir -p "$making"
  [ "$(id -u)" != 0 ] || apt-get update
  (cd "$making" && apt-get download prometheus && dpkg-deb -x prometheus_*.deb .)
  mv "$making/usr/bin/promtool" "$PROMTOOL"
  rm -rf "$making"
}
