//! Certificates of one test's own, by the program `openssl`: somebody who signs, a server on this machine, a client.

use super::servers::{folder, run};
use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// Of the client's key.
pub const KEY_PASSWORD: &str = "the password of a key";

pub struct Certificates {
    folder: tempfile::TempDir,
}

impl Certificates {
    pub fn new() -> Self {
        let own = Self { folder: folder("certificates") };
        let everybody = "[req]\ndistinguished_name = name\nprompt = no\n";
        let ca = "x509_extensions = more\n[name]\nCN = a test's CA\n[more]\n\
                  basicConstraints = critical, CA:true\nkeyUsage = keyCertSign\n";
        let server = "x509_extensions = more\n[name]\nCN = a test's server\n[more]\n\
                      basicConstraints = critical, CA:false\nsubjectAltName = IP:127.0.0.1, DNS:localhost\n";
        let client = "x509_extensions = more\n[name]\nCN = a test's client\n[more]\n\
                      basicConstraints = critical, CA:false\nextendedKeyUsage = clientAuth\n";
        own.make("ca", &format!("{everybody}{ca}"), &["-noenc"]);
        let signed = ["-CA", "ca.pem", "-CAkey", "ca.key"];
        own.make("server", &format!("{everybody}{server}"), &[&signed[..], &["-noenc"]].concat());
        let both = ["server.key", "server.pem"].map(|name| std::fs::read_to_string(own.file(name)));
        let both = both.map(|text| text.expect("a file of openssl's")).concat();
        std::fs::write(own.file("server.all"), both).expect("key and certificate");
        let pass = format!("pass:{KEY_PASSWORD}");
        let locked = [&signed[..], &["-passout", &pass]].concat();
        own.make("client", &format!("{everybody}{client}"), &locked);
        let export = "pkcs12 -export -in client.pem -inkey client.key -out client.p12";
        run(Command::new("openssl")
            .args(export.split(' '))
            .args(["-passin", &pass, "-passout", &pass])
            .current_dir(own.folder.path()));
        own
    }

    fn make(&self, name: &str, settings: &str, more: &[&str]) {
        let file = |kind| format!("{name}.{kind}");
        std::fs::write(self.file(&file("conf")), settings).expect("settings");
        let make = "req -x509 -days 2 -newkey ec -pkeyopt ec_paramgen_curve:P-256";
        run(Command::new("openssl")
            .args(make.split(' '))
            .args(["-config", &file("conf"), "-keyout", &file("key"), "-out", &file("pem")])
            .args(more)
            .current_dir(self.folder.path()));
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `ca.pem`; `server.pem` and `.key`, and both in `server.all`; `client.pem` and `.key`, and both in `client.p12`.
    pub fn path(&self, name: &str) -> String {
        self.file(name).display().to_string()
    }

    /// Key and certificate of the server, copied to where it looks for them.
    pub fn install(&self, key: &Path, certificate: &Path) {
        for (name, to) in [("server.key", key), ("server.pem", certificate)] {
            std::fs::copy(self.file(name), to).expect("a copy");
        }
    }
}
