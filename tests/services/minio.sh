# shellcheck shell=bash
# MinIO, an S3 server, built from source: about 4 minutes of CPU, once. Needs Go.

MINIO_VERSION=v0.0.0-20260212201848-7aac2a2c5b7c # the release tags are not Go versions
MINIO=$SERVICES/minio-$MINIO_VERSION
MINIO_BUCKET=highwater-test
MINIO_USER=highwater
MINIO_PASSWORD=highwater-test

minio_present() { [ -x "$MINIO" ]; }

minio_install() {
  command -v go > /dev/null || die "go is missing: MinIO is built with Go 1.24 or later, see https://go.dev/dl"
  # Caches of its own, 3 GB, thrown away when done; after a failure they make the next try shorter.
  local making=$SERVICES/minio.making
  CGO_ENABLED=0 GOBIN=$making/bin GOPATH=$making/path GOCACHE=$making/cache \
    GOFLAGS='-buildvcs=false -trimpath -modcacherw' \
    go install -ldflags='-s -w' "github.com/minio/minio@$MINIO_VERSION"
  mv "$making/bin/minio" "$MINIO"
  rm -rf "$making"
}

minio_launch() {
  rm -rf "$RUN/minio"
  mkdir -p "$RUN/minio/data/$MINIO_BUCKET" # a directory is a bucket
  MINIO_PORT=$(free_port)
  launch minio env HOME="$RUN/minio" MINIO_ROOT_USER=$MINIO_USER MINIO_ROOT_PASSWORD=$MINIO_PASSWORD \
    MINIO_BROWSER=off MINIO_UPDATE=off \
    "$MINIO" server --quiet --address "127.0.0.1:$MINIO_PORT" data
}

minio_ready() {
  local status
  answers "$MINIO_PORT" || return
  exec 4<> "/dev/tcp/127.0.0.1/$MINIO_PORT"
  printf 'GET /minio/health/ready HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n' >&4
  read -r -t 5 status <&4 || status=none
  exec 4>&-
  [[ $status == *' 200 '* ]]
}

minio_stop_signal() { echo TERM; }
