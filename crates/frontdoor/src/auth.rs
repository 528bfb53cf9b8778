//! Who calls: API keys, where a door has any.

use http::HeaderMap;
use http::header::AUTHORIZATION;
use tiermesh_core::{Account, ErrorClass, InferError, UserId};
use tiermesh_identity::Keyring;

/// The API keys of a door, and whose they are.
pub type Keys = Keyring<Holder>;

/// Whose an API key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// What the key is called; never the key.
    pub name: String,
    /// The customer it belongs to.
    pub tenant: Option<String>,
    /// The only user who asks with it; none for a key whose holder names the
    /// users itself.
    pub user: Option<UserId>,
    /// Whether its holder runs the mesh: sees all nodes, and tells them.
    pub operator: bool,
}

impl Holder {
    /// Refuses who does not run the mesh.
    ///
    /// # Errors
    /// `OPERATOR_ONLY`.
    pub(crate) fn runs_the_mesh(&self) -> Result<(), InferError> {
        match self.operator {
            true => Ok(()),
            false => Err(InferError::new(
                ErrorClass::Forbidden,
                "OPERATOR_ONLY",
                format!(
                    "the API key `{}` is no operator's: its entry in `[[keys]]` needs `operator = true`",
                    self.name
                ),
            )),
        }
    }

    /// Who pays.
    pub(crate) fn account(&self) -> Account {
        Account {
            key: Some(self.name.clone()),
            tenant: self.tenant.clone(),
        }
    }

    /// The user a request is by, where it may be.
    ///
    /// # Errors
    /// `USER_REFUSED` where the key is another's.
    pub(crate) fn user(&self, named: &str) -> Result<Option<&UserId>, InferError> {
        match &self.user {
            Some(user) if !named.is_empty() && named != user.as_str() => Err(InferError::new(
                ErrorClass::Forbidden,
                "USER_REFUSED",
                format!(
                    "the API key `{}` is the user `{user}`'s, and asks for nobody else: leave `user_id` out",
                    self.name
                ),
            )),
            user => Ok(user.as_ref()),
        }
    }
}

/// Whose key a call brings. What it brings instead of one is never repeated.
///
/// # Errors
/// `API_KEY_REQUIRED` without a key, `API_KEY_UNKNOWN` with another.
pub(crate) fn holder(headers: &HeaderMap, keys: &Keys) -> Result<Holder, InferError> {
    let refused = |reason, message| InferError::new(ErrorClass::Unauthenticated, reason, message);
    let mut brought = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (brought.next(), brought.next()) else {
        return Err(refused(
            "API_KEY_REQUIRED",
            "this door asks for one API key: send `authorization: Bearer KEY`",
        ));
    };
    let key = value.to_str().ok().and_then(|text| {
        let (scheme, key) = text.trim().split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    });
    let Some(key) = key else {
        return Err(refused(
            "API_KEY_REQUIRED",
            "the `authorization` header is of another kind than `Bearer KEY`, which this door asks for",
        ));
    };
    keys.find(key).cloned().ok_or_else(|| {
        refused(
            "API_KEY_UNKNOWN",
            "the API key is not one that this door knows",
        )
    })
}
