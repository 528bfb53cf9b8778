//! What a call's headers say: its deadline, the hops it took, its ticket.
//! gRPC metadata and HTTP headers are the same thing here.

use crate::auth::{Holder, holder};
use crate::{Caller, DoorOptions};
use http::HeaderMap;
use std::time::Duration;
use tiermesh_core::{ErrorClass, FieldError, InferError, NodeId, Via};

/// The hops a request has taken, comma-separated.
const VIA: &str = "x-tiermesh-via";
/// A signed ticket from `Locate`.
const TICKET: &str = "tiermesh-ticket";
/// Asks for resume tokens over HTTP.
const RESUMABLE: &str = "x-tiermesh-resumable";
const TRACE_PARENT: &str = "traceparent";
const GRPC_TIMEOUT: &str = "grpc-timeout";
/// A W3C `traceparent` of version 00 is exactly this long.
const TRACE_PARENT_BYTES: usize = 55;

/// What came beside a request.
#[derive(Debug, Default)]
pub(crate) struct Call {
    /// `grpc-timeout`, from the arrival of the headers.
    pub(crate) timeout: Option<Duration>,
    pub(crate) ticket: Option<String>,
    /// Whose API key it brought, where the door asks for one.
    pub(crate) holder: Option<Holder>,
    pub(crate) via: Via,
    pub(crate) trace_parent: Option<String>,
    /// The client wants resume tokens.
    pub(crate) resumable: bool,
}

impl Call {
    /// Reads the headers, and refuses a caller without the key that is asked
    /// for, and a request that was here before.
    pub(crate) fn read(headers: &HeaderMap, options: &DoorOptions) -> Result<Self, InferError> {
        let keys = options.keys.as_deref();
        let holder = keys.map(|keys| holder(headers, keys)).transpose()?;
        let (via, node) = (via(headers)?, &options.node);
        if via.contains(node) {
            return Err(InferError::new(
                ErrorClass::Forbidden,
                "LOOP",
                format!("the request came through `{node}` already"),
            ));
        }
        Ok(Self {
            timeout: match headers.get(GRPC_TIMEOUT) {
                Some(value) => Some(grpc_timeout(value.as_bytes())?),
                None => None,
            },
            ticket: text(headers, TICKET).map(ToOwned::to_owned),
            holder,
            via,
            trace_parent: text(headers, TRACE_PARENT)
                .filter(|parent| parent.len() == TRACE_PARENT_BYTES)
                .map(ToOwned::to_owned),
            resumable: text(headers, RESUMABLE).is_some_and(|value| value == "true"),
        })
    }

    /// The customer whose API key it brought; none where the door asks for none.
    pub(crate) fn tenant(&self) -> Option<&str> {
        self.holder.as_ref()?.tenant.as_deref()
    }

    pub(crate) fn caller(&self) -> Caller<'_> {
        Caller {
            ticket: self.ticket.as_deref(),
        }
    }
}

/// A header's text, when it is there and visible ASCII.
pub(crate) fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

fn via(headers: &HeaderMap) -> Result<Via, InferError> {
    let mut via = Via::default();
    for value in headers.get_all(VIA) {
        let value = value.to_str().unwrap_or("?");
        for hop in value.split(',').map(str::trim).filter(|h| !h.is_empty()) {
            let hop = NodeId::new(hop).map_err(|error| {
                FieldError::new(VIA, format!("`{}`", error.value), "node ids between commas")
            })?;
            via = via.then(hop)?;
        }
    }
    Ok(via)
}

/// One to eight digits and a unit: hours, minutes, seconds, milli-, micro- or
/// nanoseconds (`H M S m u n`), as gRPC's specification has it.
fn grpc_timeout(value: &[u8]) -> Result<Duration, FieldError> {
    let refused = || {
        FieldError::new(
            GRPC_TIMEOUT,
            format!("`{}`", value.escape_ascii()),
            "1 to 8 digits and one of H, M, S, m, u or n",
        )
    };
    let (unit, digits) = value.split_last().ok_or_else(refused)?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return Err(refused());
    }
    let count = digits
        .iter()
        .fold(0_u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    match unit {
        b'H' => Ok(Duration::from_secs(count * 3600)),
        b'M' => Ok(Duration::from_secs(count * 60)),
        b'S' => Ok(Duration::from_secs(count)),
        b'm' => Ok(Duration::from_millis(count)),
        b'u' => Ok(Duration::from_micros(count)),
        b'n' => Ok(Duration::from_nanos(count)),
        _ => Err(refused()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(
            http::HeaderName::from_static(name),
            http::HeaderValue::from_static(value),
        )])
    }

    #[test]
    fn every_unit_of_a_grpc_timeout_is_read() {
        for (value, expected) in [
            ("2H", Duration::from_secs(7200)),
            ("3M", Duration::from_secs(180)),
            ("4S", Duration::from_secs(4)),
            ("50m", Duration::from_millis(50)),
            ("6u", Duration::from_micros(6)),
            ("0n", Duration::ZERO),
            ("99999999H", Duration::from_secs(99_999_999 * 3600)),
        ] {
            assert_eq!(grpc_timeout(value.as_bytes()).unwrap(), expected);
        }
    }

    #[test]
    fn a_bad_grpc_timeout_is_named() {
        for bad in ["", "5", "S", "-1S", "123456789m", "1h", "1.5S", " 1S"] {
            let error = grpc_timeout(bad.as_bytes()).unwrap_err();
            assert_eq!(error.field, GRPC_TIMEOUT, "{bad}");
        }
    }

    #[test]
    fn a_request_that_was_here_before_is_refused() {
        let here = DoorOptions::new(
            NodeId::new("gw").unwrap(),
            tiermesh_core::Tier::Cloud,
            tiermesh_core::UserId::new("ann").unwrap(),
            tiermesh_core::PolicyName::new("iot").unwrap(),
        );
        let error = Call::read(&headers(VIA, "phone, gw"), &here).unwrap_err();
        assert_eq!(error.reason, "LOOP");
        let error = Call::read(&headers(VIA, "a,b,c,d"), &here).unwrap_err();
        assert_eq!(error.reason, "TOO_MANY_HOPS");
        let call = Call::read(&headers(VIA, "phone"), &here).unwrap();
        assert_eq!(call.via.hops().len(), 1);
    }
}
