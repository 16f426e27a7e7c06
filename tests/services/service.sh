# shellcheck shell=bash
# What every service of the tests needs: installed once, on free loopback ports, a child of the
# script that sources this, stopped by its pid.
#
# Owns: $SERVICES (what is installed, kept) and $RUN (what runs, thrown away).
# A service NAME is a file NAME.sh beside this one with the functions
#   NAME_present   whether it is installed
#   NAME_install   installs it below $SERVICES
#   NAME_launch    picks its ports, writes its settings, calls `launch`
#   NAME_ready     whether it answers

SERVICES=${HIGHWATER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/highwater}/services
START_SECONDS_MAX=120
STOP_SECONDS_MAX=20
declare -A PID=()

say() { printf 'tests/run: %s\n' "$*" >&2; }
die() { say "$@"; exit 1; }

# --- installing ----------------------------------------------------------------------------------

# A second caller waits for the first and finds it done.
install_once() {
  local name=$1 log=$SERVICES/$1.log
  "${name}_present" && return
  mkdir -p "$SERVICES"
  (
    flock 9
    "${name}_present" && exit
    say "installing $name in $SERVICES"
    exec 3>&2 > "$log" 2>&1
    trap '[ $? = 0 ] || { tail -n 20 "$log"; say "installing $name failed: $log"; } >&3 2>&3' EXIT
    "${name}_install"
  ) 9> "$SERVICES/$name.lock"
}

# need COMMAND PACKAGE: Debian's package where the command is missing.
need() {
  command -v "$1" > /dev/null || debian_install "$2"
}

# maven_archive COORDINATES FOLDER: a tar.gz of Maven Central, unpacked. Needs Java 17, as what is in it does.
maven_archive() {
  need java default-jre-headless
  need mvn maven
  local making=$2.making
  rm -rf "$making"
  mkdir -p "$making"
  mvn -B -q dependency:copy -DoutputDirectory="$making" -Dartifact="$1"
  tar xzf "$making"/*.tar.gz -C "$making"
  rm "$making"/*.tar.gz
  mv "$making" "$2"
}

debian_install() {
  command -v apt-get > /dev/null || die "$1 is missing and there is no apt-get: install it by hand"
  local root=()
  if [ "$(id -u)" != 0 ]; then
    root=(sudo -n)
    sudo -n true 2> /dev/null || die "$1 is missing: run 'apt-get install $1' as root"
  fi
  "${root[@]}" apt-get update
  "${root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y --no-install-recommends -o DPkg::Lock::Timeout=300 "$1"
}

# --- running -------------------------------------------------------------------------------------

answers() { (: < "/dev/tcp/127.0.0.1/$1") 2> /dev/null; }

# Below Linux's range of ephemeral ports. Another program may take it before we do: see `await`.
free_port() {
  local port
  while port=$((20000 + RANDOM % 12000)); answers "$port"; do :; done
  echo "$port"
}

# launch NAME COMMAND...: in a session of its own, so that Ctrl-C reaches only the calling script,
# which then stops it; and should that script be killed outright, the kernel stops it.
launch() {
  local name=$1
  shift
  (cd "$RUN/$name" && exec setsid setpriv --pdeathsig TERM -- "$@") > "$RUN/$name.log" 2>&1 < /dev/null &
  PID[$name]=$!
}

alive() { jobs -rp | grep -qx "${PID[$1]}"; }

await() {
  local name=$1 launches=1 deadline=$((SECONDS + START_SECONDS_MAX))
  until "${name}_ready"; do
    if ! alive "$name"; then
      if [ $launches -lt 3 ] && grep -qi 'already in use' "$RUN/$name.log"; then
        launches=$((launches + 1))
        "${name}_launch"
        continue
      fi
      tail -n 30 "$RUN/$name.log" >&2
      die "$name died while starting: $RUN/$name.log"
    fi
    if [ $SECONDS -ge $deadline ]; then
      tail -n 30 "$RUN/$name.log" >&2
      die "$name is not ready after $START_SECONDS_MAX s: $RUN/$name.log"
    fi
    sleep 0.1
  done
}

# All at once, then waits for each.
stop_services() {
  local name deadline=$((SECONDS + STOP_SECONDS_MAX))
  for name in "${!PID[@]}"; do
    alive "$name" && kill -s "$("${name}_stop_signal")" "${PID[$name]}"
  done
  for name in "${!PID[@]}"; do
    while alive "$name" && [ $SECONDS -lt $deadline ]; do sleep 0.1; done
    alive "$name" && kill -s KILL "${PID[$name]}"
  done
  PID=()
}
