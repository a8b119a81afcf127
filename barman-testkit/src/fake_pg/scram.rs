//! The server's side of SCRAM-SHA-256 (RFC 5802, RFC 7677), without channel binding.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

/// The exchange after the client's first message.
pub(super) struct Exchange {
    salted: [u8; 32],
    nonce: String,
    first_bare: String,
    server_first: String,
}

/// Rounds of PBKDF2; few, since tests run it unoptimised.
const ROUNDS: u32 = 4096;
const SALT: &[u8; 16] = b"barman-testkit-s";

impl Exchange {
    /// Reads `client-first-message` and prepares the answer.
    pub(super) fn begin(password: &str, client_first: &str) -> Result<Exchange, String> {
        let bare = client_first
            .strip_prefix("n,,")
            .or_else(|| client_first.strip_prefix("y,,"))
            .ok_or_else(|| format!("the GS2 header of {client_first:?} asks for what was not offered"))?;
        let client_nonce = bare
            .split(',')
            .find_map(|part| part.strip_prefix("r="))
            .filter(|nonce| nonce.len() >= 18)
            .ok_or_else(|| format!("{bare:?} has no nonce, or a short one"))?;
        let nonce = format!("{client_nonce}server");
        let server_first = format!("r={nonce},s={},i={ROUNDS}", STANDARD.encode(SALT));
        Ok(Exchange { salted: pbkdf2(password.as_bytes()), nonce, first_bare: bare.to_owned(), server_first })
    }

    /// `server-first-message`.
    pub(super) fn challenge(&self) -> &str {
        &self.server_first
    }

    /// Judges `client-final-message`: `Ok(Some)` is the `server-final-message`, `Ok(None)` a wrong password.
    pub(super) fn finish(&self, client_final: &str) -> Result<Option<String>, String> {
        let (without_proof, proof) =
            client_final.rsplit_once(",p=").ok_or_else(|| format!("{client_final:?} has no proof"))?;
        let expected = format!("r={}", self.nonce);
        let binding = without_proof.strip_prefix("c=").and_then(|rest| rest.split_once(','));
        let fits = binding.is_some_and(|(data, nonce)| matches!(data, "biws" | "eSws") && nonce == expected);
        if !fits {
            return Err(format!("{without_proof:?} has another nonce or channel binding"));
        }
        let proof = STANDARD.decode(proof).map_err(|error| format!("the proof is no base64: {error}"))?;
        let auth_message = format!("{},{},{without_proof}", self.first_bare, self.server_first);
        let client_key = hmac(&self.salted, b"Client Key");
        let stored_key: [u8; 32] = Sha256::digest(client_key).into();
        let signature = hmac(&stored_key, auth_message.as_bytes());
        let right: Vec<u8> = client_key.iter().zip(signature).map(|(key, sign)| key ^ sign).collect();
        if proof != right {
            return Ok(None);
        }
        let server_key = hmac(&self.salted, b"Server Key");
        Ok(Some(format!("v={}", STANDARD.encode(hmac(&server_key, auth_message.as_bytes())))))
    }
}

fn hmac(key: &[u8], data: &[u8]) -> [u8; 32] {
    let mut block = [0_u8; 64];
    if key.len() > block.len() {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let inner = Sha256::new().chain_update(block.map(|b| b ^ 0x36)).chain_update(data).finalize();
    Sha256::new().chain_update(block.map(|b| b ^ 0x5c)).chain_update(inner).finalize().into()
}

fn pbkdf2(password: &[u8]) -> [u8; 32] {
    let mut salted = SALT.to_vec();
    salted.extend_from_slice(&1_u32.to_be_bytes());
    let mut round = hmac(password, &salted);
    let mut sum = round;
    for _ in 1..ROUNDS {
        round = hmac(password, &round);
        for (total, byte) in sum.iter_mut().zip(round) {
            *total ^= byte;
        }
    }
    sum
}
