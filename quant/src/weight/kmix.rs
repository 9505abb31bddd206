//! llama.cpp's mixtures of K-quants by name: which kind each weight of a language model gets, by its role and depth.
//!
//! The rules are those of `llama-quant.cpp` (all divisions are integer divisions). Where a rule says Q8_0 the answer is
//! [`Stored::EightBits`]: symmetric int8 in blocks of 32. The crate's K-quants take rows of any length, so there is no
//! fallback for rows that are no multiple of 256.

use serde::{Deserialize, Serialize};

use super::kquant::Kind;

/// A mixture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // llama.cpp's names
pub enum Mix {
    Q2K,
    Q3KS,
    Q3KM,
    Q3KL,
    Q4KS,
    Q4KM,
    Q5KS,
    Q5KM,
    Q6K,
}

impl Mix {
    /// Every mixture with the name that users type.
    pub const ALL: [(Mix, &'static str); 9] = [
        (Mix::Q2K, "q2_k"),
        (Mix::Q3KS, "q3_k_s"),
        (Mix::Q3KM, "q3_k_m"),
        (Mix::Q3KL, "q3_k_l"),
        (Mix::Q4KS, "q4_k_s"),
        (Mix::Q4KM, "q4_k_m"),
        (Mix::Q5KS, "q5_k_s"),
        (Mix::Q5KM, "q5_k_m"),
        (Mix::Q6K, "q6_k"),
    ];
}

impl std::fmt::Display for Mix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(Mix::ALL.iter().find(|(mix, _)| mix == self).map_or("?", |(_, name)| name))
    }
}

impl std::str::FromStr for Mix {
    type Err = super::WeightError;
    fn from_str(name: &str) -> Result<Mix, super::WeightError> {
        let name = name.to_ascii_lowercase();
        Mix::ALL.iter().find(|(_, known)| *known == name).map(|(mix, _)| *mix).ok_or(
            super::WeightError::Option {
                what: "mixture",
                must: "q2_k, q3_k_s, q3_k_m, q3_k_l, q4_k_s, q4_k_m, q5_k_s, q5_k_m or q6_k",
                found: name,
            },
        )
    }
}

/// What a weight does in the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The head, also when it is tied to the embedding.
    Head,
    /// The token embedding, untied.
    Embedding,
    /// The value projection, and fused q-k-v.
    Value,
    /// The second (narrowing) projection of the feed-forward part.
    Down,
    /// The projection behind attention.
    AttentionOutput,
    /// Everything else.
    Other,
}

/// Facts about the model that the rules ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Facts {
    /// Query heads per key-value head; 0 if unknown.
    pub heads_per_kv: usize,
    /// Experts of a mixture; 0 or 1 for dense models.
    pub experts: usize,
}

/// How a weight is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stored {
    /// A K-quant.
    K(Kind),
    /// Symmetric int8 in blocks of 32 (Q8_0).
    EightBits,
}

/// The first and last eighth of the layers, and every third in between.
fn more(i: usize, n: usize) -> bool {
    i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2
}

impl Mix {
    /// The kind of a weight of `role`, the `index`-th of `count` of that role.
    pub fn kind(self, role: Role, index: usize, count: usize, facts: Facts) -> Stored {
        use Kind::{Q2K, Q3K, Q4K, Q5K, Q6K};
        let base = match self {
            Self::Q2K => Q2K,
            Self::Q3KS | Self::Q3KM | Self::Q3KL => Q3K,
            Self::Q4KS | Self::Q4KM => Q4K,
            Self::Q5KS | Self::Q5KM => Q5K,
            Self::Q6K => Q6K,
        };
        let many = facts.experts == 8;
        let kind = match (role, self) {
            (Role::Head, _) => Q6K,
            (Role::Value, _) if many => return Stored::EightBits,
            (Role::Value, Self::Q2K) => {
                if facts.heads_per_kv >= 4 {
                    Q4K
                } else {
                    Q3K
                }
            }
            (Role::Value, Self::Q3KM) => {
                if index < 2 {
                    Q5K
                } else {
                    Q4K
                }
            }
            (Role::Value, Self::Q3KL) => Q5K,
            (Role::Value | Role::Down, Self::Q4KM | Self::Q5KM) if more(index, count) => Q6K,
            (Role::Value, Self::Q4KS) if index < 4 => Q5K,
            (Role::Down, Self::Q2K) => Q3K,
            (Role::Down, Self::Q3KM) => {
                if index < count / 16 {
                    Q5K
                } else {
                    Q4K
                }
            }
            (Role::Down, Self::Q3KL) => Q5K,
            (Role::Down, Self::Q4KS) if index < count / 8 => Q5K,
            (Role::AttentionOutput, Self::Q2K | Self::Q3KS | Self::Q3KM | Self::Q4KS | Self::Q4KM)
                if many =>
            {
                Q5K
            }
            (Role::AttentionOutput, Self::Q2K) => Q3K,
            (Role::AttentionOutput, Self::Q3KM) => Q4K,
            (Role::AttentionOutput, Self::Q3KL) => Q5K,
            _ => base,
        };
        Stored::K(kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_is_llama_cpps() {
        let of = |n| (0..n).filter(|&i| more(i, n)).collect::<Vec<_>>();
        assert_eq!(of(32), [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]);
        assert_eq!(of(28), [0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 24, 25, 26, 27]);
        assert_eq!(of(22), [0, 1, 4, 7, 10, 13, 16, 19, 20, 21]);
    }

    #[test]
    fn rules() {
        let facts = Facts { heads_per_kv: 1, experts: 0 };
        let k = |mix: Mix, role, i| mix.kind(role, i, 32, facts);
        assert_eq!(k(Mix::Q4KM, Role::Head, 0), Stored::K(Kind::Q6K));
        assert_eq!(k(Mix::Q4KM, Role::Value, 0), Stored::K(Kind::Q6K));
        assert_eq!(k(Mix::Q4KM, Role::Down, 4), Stored::K(Kind::Q4K));
        assert_eq!(k(Mix::Q4KM, Role::Other, 0), Stored::K(Kind::Q4K));
        assert_eq!(k(Mix::Q4KS, Role::Value, 4), Stored::K(Kind::Q4K));
        assert_eq!(k(Mix::Q3KM, Role::Value, 1), Stored::K(Kind::Q5K));
        assert_eq!(k(Mix::Q3KM, Role::Down, 2), Stored::K(Kind::Q4K));
        assert_eq!(k(Mix::Q2K, Role::Value, 9), Stored::K(Kind::Q3K));
        assert_eq!(k(Mix::Q3KS, Role::AttentionOutput, 0), Stored::K(Kind::Q3K));
        let grouped = Facts { heads_per_kv: 4, experts: 0 };
        assert_eq!(Mix::Q2K.kind(Role::Value, 9, 32, grouped), Stored::K(Kind::Q4K));
        let experts = Facts { heads_per_kv: 4, experts: 8 };
        assert_eq!(Mix::Q4KM.kind(Role::Value, 5, 32, experts), Stored::EightBits);
        assert_eq!(Mix::Q4KM.kind(Role::AttentionOutput, 5, 32, experts), Stored::K(Kind::Q5K));
        assert_eq!(Mix::Q4KM.kind(Role::Down, 0, 1, facts), Stored::K(Kind::Q6K)); // one layer: its last eighth
    }
}
