//! What can be seen without a key; the rest is seen where whole servers are backed up.

use std::io::Cursor;
use std::time::{Duration, Instant};

use super::gpg::Gpg;
use super::*;
use crate::ctx::Cancel;

fn shell(key: &str, command: Option<&str>) -> Gpg {
    Gpg::new(Some(key.to_owned()), command.map(str::to_owned), Cancel::new())
}

fn fails(gpg: &Gpg) -> String {
    gpg.decrypt(Box::new(Cursor::new(vec![0x85, 1, 12, 3]))).err().unwrap().to_string()
}

#[test]
fn what_is_missing_is_said_and_secrets_are_not() {
    assert!(fails(&shell("k", None)).contains("encryption_passphrase_command is not set"));
    let text = fails(&shell("k", Some("echo topsecret; echo topsecret >&2; exit 3")));
    assert!(text.contains("failed (exit status: 3)") && !text.contains("topsecret"), "{text}");
    let text = fails(&shell("k", Some("yes topsecret")));
    assert!(text.contains("prints without end") && !text.contains("topsecret"), "{text}");
    let text = fails(&shell("k", Some("echo x")).with_program("/nonexistent/gpg"));
    assert!(
        text.contains("/nonexistent/gpg, which cannot be started") && text.contains("install GnuPG"),
        "{text}"
    );
    let gpg = Gpg::new(None, None, Cancel::new());
    let error = gpg.encrypt(Box::new(std::io::sink())).err().unwrap();
    assert!(error.to_string().starts_with("encryption_key_id is not set"), "{error}");
    assert!(gpg.can_encrypt().is_err() && gpg.can_decrypt().is_err());
}

#[test]
fn a_cancelled_operation_does_not_wait_for_its_program() {
    let cancel = Cancel::new();
    let gpg = Gpg::new(Some("k".to_owned()), Some("sleep 600".to_owned()), cancel.clone());
    cancel.cancel();
    let error = gpg.decrypt(Box::new(Cursor::new(Vec::new()))).err().unwrap();
    assert!(matches!(error, CipherError::Cancelled(_)), "{error}");
    // Nor when it is set while nothing moves. The bound is far below the sleep and far above any scheduling.
    let cancel = Cancel::new();
    let gpg = Gpg::new(Some("k".to_owned()), Some("sleep 600".to_owned()), cancel.clone());
    let began = Instant::now();
    let error = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| gpg.decrypt(Box::new(Cursor::new(Vec::new()))).err());
        cancel.cancel();
        waiting.join().unwrap().unwrap()
    });
    assert!(matches!(error, CipherError::Cancelled(_)), "{error}");
    assert!(began.elapsed() < Duration::from_secs(300));
}
