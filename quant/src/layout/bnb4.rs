//! `com.microsoft::MatMulBnb4`: NF4 and FP4 weights.
//!
//! B is uint8 `[(N·K + 1) / 2]`: the flat row-major `[N, K]` codes, the first of each pair in the **high** nibble (the
//! opposite of every other layout here). absmax is `[ceil(N·K / block)]`. block_size is a power of two ≥ 16; blocks cross
//! rows. Attribute quant_type is 0 for FP4, 1 for NF4; transB is 1.

use crate::Error;
use crate::error::check_len;
use crate::weight::nf4::{Codebook, Table};
use crate::weight::{Method, Provenance};

/// The inputs and attributes of a MatMulBnb4 node.
#[derive(Debug, Clone, PartialEq)]
pub struct Bnb4 {
    /// Attribute N.
    pub rows: usize,
    /// Attribute K.
    pub cols: usize,
    /// Attribute block_size.
    pub block: usize,
    /// Attribute quant_type as a table; see [`Bnb4::quant_type`].
    pub table: Table,
    /// Input B.
    pub codes: Vec<u8>,
    /// Input absmax.
    pub absmax: Vec<f32>,
}

impl Bnb4 {
    /// Attribute quant_type.
    pub fn quant_type(&self) -> i64 {
        match self.table {
            Table::Fp4 => 0,
            Table::Nf4 => 1,
        }
    }
}

fn check_block(block: usize) -> Result<(), Error> {
    if block >= 16 && block.is_power_of_two() {
        return Ok(());
    }
    Err(Error::Parameter { what: "block_size", must: "a power of two ≥ 16", found: block.to_string() })
}

/// Lays out a weight.
pub fn pack(q: &Codebook) -> Result<Bnb4, Error> {
    check_block(q.block)?;
    let pair = |p: &[u8]| ((p[0] & 15) << 4) | (p.get(1).copied().unwrap_or(0) & 15);
    Ok(Bnb4 {
        rows: q.rows,
        cols: q.cols,
        block: q.block,
        table: q.table,
        codes: q.codes.chunks(2).map(pair).collect(),
        absmax: q.scales.clone(),
    })
}

/// Reads the tensors of a MatMulBnb4 node; the inverse of [`pack`].
pub fn unpack_weight(m: &Bnb4) -> Result<Codebook, Error> {
    check_block(m.block)?;
    let overflow = || Error::Shape(format!("a weight of {} × {} overflows", m.rows, m.cols));
    let count = m.rows.checked_mul(m.cols).ok_or_else(overflow)?;
    check_len("B", count.div_ceil(2), m.codes.len())?;
    check_len("absmax", count.div_ceil(m.block), m.absmax.len())?;
    let mut codes: Vec<u8> = m.codes.iter().flat_map(|b| [b >> 4, b & 15]).collect();
    codes.truncate(count);
    let method = if m.table == Table::Nf4 { Method::Nf4 } else { Method::Fp4 };
    Ok(Codebook {
        table: m.table,
        rows: m.rows,
        cols: m.cols,
        block: m.block,
        codes,
        scales: m.absmax.clone(),
        nested: None,
        provenance: Provenance { method, notes: Vec::new() },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weight::Weight;
    use crate::weight::nf4::{Scale, nf4};
    use crate::weight::testing::gaussian;
    use proptest::prelude::*;

    #[test]
    fn golden_bytes() {
        // −1, 0, 1 and the smallest positive value: codes 0, 7, 15, 8; then code 7 alone in its byte.
        let w = [-2.0, 0.0, 2.0, 2.0 * 0.0796, 0.0];
        let weight = Weight::from_rows(&w[..], 1, 5).unwrap();
        let m = pack(&nf4(&weight, Table::Nf4, 16, Scale::AbsMax, false).unwrap()).unwrap();
        assert_eq!((m.codes, m.absmax, m.table), (vec![0x07, 0xf8, 0x70], vec![2.0], Table::Nf4));
        // FP4: −1 is 1011, 0 is 0000, 1 is 0011, 1/192 is 0001.
        let w = [-2.0, 0.0, 2.0, 0.0104, 0.0];
        let weight = Weight::from_rows(&w[..], 5, 1).unwrap();
        let m = pack(&nf4(&weight, Table::Fp4, 16, Scale::AbsMax, false).unwrap()).unwrap();
        assert_eq!((m.quant_type(), m.codes), (0, vec![0xb0, 0x31, 0x00]));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]
        #[test]
        fn unpack_inverts_pack(rows in 1usize..8, cols in 1usize..80, log in 4u32..8, fp4: bool, seed: u64) {
            let w = gaussian(rows * cols, seed);
            let table = if fp4 { Table::Fp4 } else { Table::Nf4 };
            let weight = Weight::from_kn(&w[..], rows, cols).unwrap();
            let q = nf4(&weight, table, 1 << log, Scale::AbsMax, false).unwrap();
            prop_assert_eq!(unpack_weight(&pack(&q).unwrap()).unwrap(), q);
        }
    }

    #[test]
    fn wrong_sizes_are_errors() {
        let w = gaussian(30, 1);
        let q =
            nf4(&Weight::from_rows(&w[..], 3, 10).unwrap(), Table::Nf4, 16, Scale::AbsMax, false).unwrap();
        let m = pack(&q).unwrap();
        assert!(unpack_weight(&Bnb4 { rows: usize::MAX, ..m.clone() }).is_err());
        assert!(unpack_weight(&Bnb4 { block: 0, ..m.clone() }).is_err());
        assert!(unpack_weight(&Bnb4 { codes: vec![], ..m.clone() }).is_err());
        assert!(unpack_weight(&Bnb4 { absmax: vec![], ..m }).is_err());
        assert!(pack(&Codebook { block: 24, ..q }).is_err());
    }
}
