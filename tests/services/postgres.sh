# shellcheck shell=bash
# PostgreSQL 15 or later from Debian: a database of our own, never the distribution's "main" cluster.
# It refuses to run as root: there it runs as user postgres.

POSTGRES_VERSION_MIN=15

# The newest bin directory, or nothing.
postgres_bin() {
  local newest
  newest=$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | tail -n 1)
  [ -x "$newest/postgres" ] && echo "$newest"
}

postgres_present() { [ -n "$(postgres_bin)" ]; }

postgres_install() {
  # Or the package would make a cluster and start it on port 5432.
  local policy=/etc/postgresql-common/createcluster.conf
  if [ "$(id -u)" = 0 ] && [ ! -e $policy ]; then
    mkdir -p "${policy%/*}"
    echo 'create_main_cluster = false' > $policy
  fi
  debian_install postgresql
}

# As the user that PostgreSQL runs as; QUIT ends it with its children at once.
as_postgres() {
  if [ "$(id -u)" = 0 ]; then
    echo setpriv --reuid postgres --regid postgres --init-groups --pdeathsig QUIT --
  else
    echo setpriv --pdeathsig QUIT --
  fi
}

postgres_launch() {
  local bin user
  bin=$(postgres_bin)
  read -ra user <<< "$(as_postgres)"
  [ "$(basename "$(dirname "$bin")")" -ge $POSTGRES_VERSION_MIN ] ||
    die "PostgreSQL $POSTGRES_VERSION_MIN or later is needed, the newest here is $bin"
  rm -rf "$RUN/postgres"
  mkdir -p "$RUN/postgres"
  [ "$(id -u)" != 0 ] || chown postgres "$RUN/postgres"
  (cd "$RUN/postgres" && "${user[@]}" "$bin/initdb" -D data -U postgres -A trust -E UTF8 --locale=C.UTF-8 -N) \
    > "$RUN/postgres.log" 2>&1 || { cat "$RUN/postgres.log" >&2; die "initdb failed"; }
  POSTGRES_PORT=$(free_port)
  # Nothing here outlives the tests: no fsync. Every test may hold a pool of its own.
  launch postgres "${user[@]}" "$bin/postgres" -D data -p "$POSTGRES_PORT" \
    -c listen_addresses=127.0.0.1 -c unix_socket_directories="$RUN/postgres" \
    -c wal_level=logical -c max_connections=300 \
    -c fsync=off -c synchronous_commit=off -c full_page_writes=off
}

postgres_ready() {
  "$(postgres_bin)/pg_isready" -q -h 127.0.0.1 -p "$POSTGRES_PORT" -U postgres
}

postgres_stop_signal() { echo QUIT; }
