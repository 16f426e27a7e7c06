//! Servers that are encrypted, prove who they are, and let in who has a password: Kafka by SASL_SSL with certificates
//! of clients, PostgreSQL with `sslmode=require` and SCRAM, MinIO by https.

use crate::{
    faults::{HURRY, hurry},
    proxy::Fault,
    support::{
        Lake, Running, World,
        certificates::{Certificates, KEY_PASSWORD},
        eventually,
        servers::{Kafka, Minio, Postgres},
    },
    taps::{self, OUTPUTS},
};

use End::{Ends, Waits};

const USER: &str = "secured";
const PASSWORD: &str = "a-password-of-the-tests";

/// Everything of one test's own, and highwater's settings to get in.
struct Secured {
    world: World,
    certificates: Certificates,
    kafka: Kafka,
    _postgres: Postgres,
    _minio: Minio,
    settings: Vec<(&'static str, String)>,
}

fn secured(name: &str) -> Option<Secured> {
    let certificates = Certificates::new();
    let kafka = Kafka::secured(&certificates, USER, PASSWORD)?;
    let postgres = Postgres::secured(&certificates, USER)?;
    let minio = Minio::secured(&certificates)?;
    let mut services = kafka.services()?;
    services.postgres = postgres.url();
    services.s3 = minio.endpoint();
    let world = hurry(taps::world_on(services, name, 3, Lake::S3));
    world.query(&format!(
        "CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}';
         GRANT CREATE ON DATABASE {} TO {USER}; GRANT CREATE ON SCHEMA public TO {USER}",
        world.database
    ));
    let mut settings: Vec<_> = HURRY.map(|(name, value)| (name, value.to_owned())).into();
    let warehouse = world.warehouse().replace("postgres@", &format!("{USER}:{PASSWORD}@"));
    settings.extend([
        ("HIGHWATER_BROKERS", kafka.proxied()),
        ("HIGHWATER_KAFKA", properties(&certificates)),
        ("HIGHWATER_KAFKA_SASL_PASSWORD", PASSWORD.to_owned()),
        ("HIGHWATER_KAFKA_SSL_KEY_PASSWORD", KEY_PASSWORD.to_owned()),
        ("HIGHWATER_WAREHOUSE", format!("{warehouse}?sslmode=require")),
        ("AWS_ALLOW_HTTP", "false".to_owned()),
        // Of all three.
        ("SSL_CERT_FILE", certificates.path("ca.pem")),
    ]);
    Some(Secured { world, certificates, kafka, _postgres: postgres, _minio: minio, settings })
}

fn properties(certificates: &Certificates) -> String {
    format!(
        "security.protocol=sasl_ssl,sasl.mechanism=SCRAM-SHA-512,sasl.username={USER},\
         ssl.certificate.location={},ssl.key.location={},session.timeout.ms=6000",
        certificates.path("client.pem"),
        certificates.path("client.key")
    )
}

/// What a setting that does not fit leads to.
#[derive(Clone, Copy)]
enum End {
    /// It waits, not ready, and `/readyz` says so.
    Waits(&'static str),
    /// It ends as with any mistake in its settings.
    Ends(&'static str),
}

impl Secured {
    fn set(&mut self, name: &'static str, value: impl Into<String>) {
        self.settings.retain(|(other, _)| *other != name);
        self.settings.push((name, value.into()));
    }

    fn value(&self, name: &str) -> &str {
        self.settings.iter().find(|(other, _)| *other == name).map_or("", |(_, value)| value)
    }

    fn start(&self, arguments: &[&str]) -> Running {
        let mut command = self.world.command(arguments);
        // Who runs the tests may have set these; an empty setting is none.
        command.env_remove("SSL_CERT_FILE").env_remove("SSL_CERT_DIR");
        command.envs(self.settings.iter().filter(|(_, value)| !value.is_empty()).cloned());
        Running::start(command)
    }
}

#[test]
fn the_job_is_done_on_encrypted_servers_that_want_passwords() {
    let Some(mut secured) = secured("secured") else { return };
    let world = &secured.world;
    world.produce(taps::records(0..5_000));
    let mut service = secured.start(&["run"]);
    eventually("the first half", || world.has_passed(OUTPUTS, 5_000));
    let connections = format!(
        "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = '{USER}'"
    );
    assert!(world.number(&connections) > 0);
    assert_eq!(world.number(&format!("{connections} AND NOT ssl")), 0);
    // Handshakes and passwords once more.
    let proxy = &secured.kafka.brokers[0].proxy;
    let met = proxy.met();
    proxy.set(Fault::Refuse);
    eventually("the connections are cut", || proxy.met() > met);
    world.produce(taps::records(5_000..10_000));
    proxy.set(Fault::None);
    eventually("the second half", || world.has_passed(OUTPUTS, 10_000));
    assert_eq!(service.get("/readyz").0, 200);
    let printed = service.stop();
    assert!(!printed.contains(PASSWORD) && !printed.contains(KEY_PASSWORD), "{printed}");
    taps::assert_tables(world, taps::taps(0..10_000));
    world.produce(taps::records(10_000..11_000));
    // As with many a hosted Kafka, by a file, certificate and key in one; and whom to trust named one by one.
    let [ca, keystore] = ["ca.pem", "client.p12"].map(|name| secured.certificates.path(name));
    let file = secured.world.folder.path().join("highwater.toml");
    let text = format!(
        r#"
[kafka.properties]
"security.protocol" = "sasl_ssl"
"sasl.mechanism" = "PLAIN"
"sasl.username" = "{USER}"
"ssl.keystore.location" = "{keystore}"
"ssl.ca.location" = "{ca}"
"#
    );
    std::fs::write(&file, text).expect("a file of settings");
    secured.set("HIGHWATER_CONFIG", file.display().to_string());
    secured.set("HIGHWATER_KAFKA", "session.timeout.ms=6000");
    secured.set("HIGHWATER_KAFKA_SSL_KEY_PASSWORD", "");
    secured.set("HIGHWATER_KAFKA_SSL_KEYSTORE_PASSWORD", KEY_PASSWORD);
    secured.set("HIGHWATER_WAREHOUSE_CA", ca);
    let warehouse = secured.value("HIGHWATER_WAREHOUSE").replace("=require", "=verify-full");
    secured.set("HIGHWATER_WAREHOUSE", warehouse.clone());
    let service = secured.start(&["run"]);
    eventually("the rest", || secured.world.has_passed(OUTPUTS, 11_000));
    service.stop();
    taps::assert_tables(&secured.world, taps::taps(0..11_000));
    let (code, proof) = secured.start(&["verify", "--deep"]).wait();
    assert!(code == Some(0) && proof.contains("everything holds"), "{proof}");
    // Encrypted all the same; who the server is, is not asked.
    secured.set("HIGHWATER_WAREHOUSE_CA", "");
    secured.set("SSL_CERT_FILE", "");
    secured.set("HIGHWATER_WAREHOUSE", warehouse.replace("=verify-full", "=prefer"));
    let (code, status) = secured.start(&["status"]).wait();
    assert_eq!(code, Some(0), "{status}");
}

#[test]
fn who_is_not_proved_is_not_talked_to_and_it_is_said_what_to_do() {
    let Some(mut secured) = secured("strangers") else { return };
    secured.world.produce(taps::records(0..100));
    let strangers = Certificates::new();
    let (stranger, known) = (strangers.path("ca.pem"), secured.certificates.path("ca.pem"));
    let right = secured.settings.clone();
    let kafka = properties(&secured.certificates);
    let unsigned =
        kafka.split(',').filter(|p| !p.starts_with("ssl.")).collect::<Vec<_>>().join(",");
    let warehouse = secured.value("HIGHWATER_WAREHOUSE");
    let unknown_password = warehouse.replace(PASSWORD, "wrong");
    let plain_warehouse = warehouse.replace("=require", "=disable");
    let system = ("HIGHWATER_LAKE", format!("file://{}", secured.world.folder.path().display()));
    let cases: [(&[(&'static str, String)], End); 10] = [
        (
            &[("HIGHWATER_KAFKA", format!("{kafka},ssl.ca.location={stranger}"))],
            Waits("check security.protocol, sasl.* and ssl.* of --kafka"),
        ),
        (
            &[("HIGHWATER_KAFKA_SASL_PASSWORD", "wrong".to_owned())],
            Waits("check security.protocol, sasl.* and ssl.* of --kafka"),
        ),
        (&[("HIGHWATER_KAFKA", unsigned)], Waits("security.protocol")),
        (
            &[("HIGHWATER_KAFKA", "security.protocol=plaintext".to_owned())],
            Waits("check --brokers, and security.protocol of --kafka"),
        ),
        (
            &[("HIGHWATER_KAFKA_SSL_KEY_PASSWORD", "wrong".to_owned())],
            Ends("check --kafka, the files that it names, and HIGHWATER_KAFKA_SSL_KEY_PASSWORD"),
        ),
        (&[("HIGHWATER_WAREHOUSE_CA", stranger.clone())], Ends("--warehouse-ca names the file")),
        (&[("HIGHWATER_WAREHOUSE", unknown_password)], Ends("password authentication failed")),
        (&[("HIGHWATER_WAREHOUSE", plain_warehouse)], Ends("pg_hba.conf rejects connection")),
        (
            &[
                ("SSL_CERT_FILE", stranger.clone()),
                ("HIGHWATER_WAREHOUSE_CA", known.clone()),
                ("HIGHWATER_KAFKA", format!("{kafka},ssl.ca.location={known}")),
            ],
            Ends("SSL_CERT_FILE names the file"),
        ),
        // Whom the system trusts is asked where systems keep it, and does not know this CA.
        (
            &[
                ("SSL_CERT_FILE", String::new()),
                ("HIGHWATER_WAREHOUSE_CA", known),
                ("HIGHWATER_KAFKA", format!("{kafka},debug=security")),
                ("HIGHWATER_LOG_LEVEL", "debug".to_owned()),
                system,
            ],
            Waits("check security.protocol, sasl.* and ssl.* of --kafka"),
        ),
    ];
    for (changes, end) in cases {
        secured.settings = right.clone();
        for (name, value) in changes {
            secured.set(name, value.clone());
        }
        let mut service = secured.start(&["run"]);
        let printed = match end {
            Waits(words) => {
                let mut said = String::new();
                eventually(words, || {
                    let (code, text) = service.get("/readyz");
                    said = text;
                    code == 503 && said.contains(words)
                });
                println!("{said}");
                service.stop()
            }
            Ends(words) => {
                let (code, printed) = service.wait();
                assert!(code == Some(2) && printed.contains(words), "{words}: {code:?} {printed}");
                printed
            }
        };
        if changes.iter().any(|(_, value)| value.contains("debug=security")) {
            let found = "Setting default CA certificate location for kafka to";
            assert!(printed.contains(found), "{printed}");
        }
        assert!(!printed.contains(PASSWORD) && !printed.contains(KEY_PASSWORD), "{printed}");
    }
    let marks = "SELECT count(*) FROM pg_tables WHERE tablename = 'marks'";
    if secured.world.number(marks) > 0 {
        assert_eq!(
            secured.world.number("SELECT count(*) FROM highwater.marks WHERE next_offset > 0"),
            0
        );
    }
    secured.settings = right;
    let (code, printed) = secured.start(&["run", "--until-caught-up"]).wait();
    assert_eq!(code, Some(0), "{printed}");
    taps::assert_tables(&secured.world, taps::taps(0..100));
}
