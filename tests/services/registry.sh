# shellcheck shell=bash
# Apicurio Registry, which has the API of Confluent's: from Maven Central, in memory. Needs Java 17.

REGISTRY_VERSION=3.0.9 # later ones need Java 21
REGISTRY_HOME=$SERVICES/registry-$REGISTRY_VERSION

registry_present() { [ -d "$REGISTRY_HOME" ]; }

registry_install() { maven_archive "io.apicurio:apicurio-registry-app:$REGISTRY_VERSION:tar.gz:all" "$REGISTRY_HOME"; }

registry_jar() { find "$REGISTRY_HOME" -maxdepth 2 \( -name '*-runner.jar' -o -name quarkus-run.jar \) | head -n 1; }

registry_launch() {
  rm -rf "$RUN/registry"
  mkdir -p "$RUN/registry"
  REGISTRY_PORT=$(free_port)
  REGISTRY_URL=http://127.0.0.1:$REGISTRY_PORT/apis/ccompat/v7
  launch registry java -Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 \
    -Dquarkus.http.host=127.0.0.1 -Dquarkus.http.port="$REGISTRY_PORT" \
    -Dquarkus.management.host=127.0.0.1 -Dquarkus.management.port="$(free_port)" \
    -Dquarkus.datasource.jdbc.url=jdbc:h2:mem:registry_db -jar "$(registry_jar)"
}

registry_ready() {
  local status
  answers "$REGISTRY_PORT" || return
  exec 4<> "/dev/tcp/127.0.0.1/$REGISTRY_PORT"
  printf 'GET /apis/ccompat/v7/subjects HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n' >&4
  read -r -t 5 status <&4 || status=none
  exec 4>&-
  [[ $status == *' 200 '* ]]
}

registry_stop_signal() { echo TERM; }
