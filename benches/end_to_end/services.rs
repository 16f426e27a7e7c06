//! Kafka, PostgreSQL and the S3 server: those that the environment names, else of `tests/run`.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
};

/// What `tests/run --services` says and this bench needs.
const NEEDED: [&str; 7] = [
    "HIGHWATER_TEST_KAFKA",
    "HIGHWATER_TEST_POSTGRES",
    "HIGHWATER_TEST_S3_ENDPOINT",
    "HIGHWATER_TEST_S3_BUCKET",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_REGION",
];

pub struct Services {
    variables: BTreeMap<String, String>,
    /// Kept, so that the script never writes into a closed pipe.
    started: Option<(Child, BufReader<ChildStdout>)>,
}

impl Services {
    pub fn find_or_start() -> Self {
        let named = |name: &&str| Some((name.to_string(), std::env::var(name).ok()?));
        let variables: BTreeMap<String, String> = NEEDED.iter().filter_map(named).collect();
        if variables.len() == NEEDED.len() {
            return Self { variables, started: None };
        }
        println!("the HIGHWATER_TEST_* variables are not set: starting tests/run --services");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/run");
        let mut command = Command::new(script);
        command.arg("--services").stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("tests/run starts");
        let mut output = BufReader::new(child.stdout.take().expect("piped"));
        let mut services = Self { variables: BTreeMap::new(), started: None };
        let mut line = String::new();
        while services.variables.len() < NEEDED.len() {
            line.clear();
            let read = output.read_line(&mut line).expect("tests/run speaks UTF-8");
            assert!(read > 0, "tests/run --services ended early; see above");
            let pair = line.trim().strip_prefix("export ").and_then(|pair| pair.split_once('='));
            if let Some((name, value)) = pair.filter(|(name, _)| NEEDED.contains(name)) {
                services.variables.insert(name.to_owned(), value.to_owned());
            }
        }
        services.started = Some((child, output));
        services
    }

    /// All of them.
    pub fn variables(&self) -> impl Iterator<Item = (&str, &str)> {
        self.variables.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    pub fn kafka(&self) -> &str {
        &self.variables["HIGHWATER_TEST_KAFKA"]
    }

    /// URL of a database of the server.
    pub fn postgres(&self, database: &str) -> String {
        let (server, _) =
            self.variables["HIGHWATER_TEST_POSTGRES"].rsplit_once('/').expect("postgres://…/name");
        format!("{server}/{database}")
    }

    pub fn bucket(&self) -> &str {
        &self.variables["HIGHWATER_TEST_S3_BUCKET"]
    }

    /// The variables that say how to reach the S3 server.
    pub fn s3(&self) -> Vec<(&'static str, String)> {
        let credentials = NEEDED.iter().filter(|name| name.starts_with("AWS_"));
        let mut variables: Vec<_> =
            credentials.map(|name| (*name, self.variables[*name].clone())).collect();
        variables.push(("AWS_ENDPOINT", self.variables["HIGHWATER_TEST_S3_ENDPOINT"].clone()));
        variables.push(("AWS_ALLOW_HTTP", "true".to_owned()));
        variables
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        if let Some((child, _)) = &mut self.started {
            // SAFETY: a signal to our own child, which is not waited for yet.
            unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGTERM) };
            let _ = child.wait();
        }
    }
}
