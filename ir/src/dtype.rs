//! Element types of tensors: every data type of ONNX IR version 14.

use std::fmt;

macro_rules! dtypes {
    ($($variant:ident = $code:literal, $name:literal, $bits:literal, $class:ident;)*) => {
        /// The element type of a tensor. The discriminant is `TensorProto.DataType`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        #[allow(missing_docs)]
        pub enum DType { $($variant = $code,)* }

        impl DType {
            /// Every element type, in the order of their codes.
            pub const ALL: &'static [DType] = &[$(DType::$variant,)*];

            /// The element type of a `TensorProto.DataType` code; none for 0 (undefined) and unknown codes.
            pub fn from_code(code: i32) -> Option<DType> {
                match code { $($code => Some(DType::$variant),)* _ => None }
            }

            /// The name in ONNX's text syntax, for example `float` or `uint4`.
            pub fn name(self) -> &'static str {
                match self { $(DType::$variant => $name,)* }
            }

            /// The element type of a name in ONNX's text syntax.
            pub fn from_name(name: &str) -> Option<DType> {
                match name { $($name => Some(DType::$variant),)* _ => None }
            }

            /// Bits of one element in packed storage; 0 for strings, which have no fixed size.
            pub fn bits(self) -> usize {
                match self { $(DType::$variant => $bits,)* }
            }

            /// What kind of number (or not a number) the element is.
            pub fn class(self) -> Class {
                match self { $(DType::$variant => Class::$class,)* }
            }
        }
    };
}

/// What kind of element a [`DType`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Class {
    Float,
    Signed,
    Unsigned,
    Bool,
    Complex,
    String,
}

dtypes! {
    F32 = 1, "float", 32, Float;
    U8 = 2, "uint8", 8, Unsigned;
    I8 = 3, "int8", 8, Signed;
    U16 = 4, "uint16", 16, Unsigned;
    I16 = 5, "int16", 16, Signed;
    I32 = 6, "int32", 32, Signed;
    I64 = 7, "int64", 64, Signed;
    String = 8, "string", 0, String;
    Bool = 9, "bool", 8, Bool;
    F16 = 10, "float16", 16, Float;
    F64 = 11, "double", 64, Float;
    U32 = 12, "uint32", 32, Unsigned;
    U64 = 13, "uint64", 64, Unsigned;
    C64 = 14, "complex64", 64, Complex;
    C128 = 15, "complex128", 128, Complex;
    BF16 = 16, "bfloat16", 16, Float;
    F8E4M3FN = 17, "float8e4m3fn", 8, Float;
    F8E4M3FNUZ = 18, "float8e4m3fnuz", 8, Float;
    F8E5M2 = 19, "float8e5m2", 8, Float;
    F8E5M2FNUZ = 20, "float8e5m2fnuz", 8, Float;
    U4 = 21, "uint4", 4, Unsigned;
    I4 = 22, "int4", 4, Signed;
    F4E2M1 = 23, "float4e2m1", 4, Float;
    F8E8M0 = 24, "float8e8m0", 8, Float;
    U2 = 25, "uint2", 2, Unsigned;
    I2 = 26, "int2", 2, Signed;
    F6E2M3 = 27, "float6e2m3", 6, Float;
    F6E3M2 = 28, "float6e3m2", 6, Float;
}

impl DType {
    /// `TensorProto.DataType` code.
    pub fn code(self) -> i32 {
        self as i32
    }

    /// Bytes that `elements` elements take in `raw_data`; sub-byte elements are packed, the last byte is filled up.
    /// None for strings and on overflow.
    pub fn storage_bytes(self, elements: usize) -> Option<usize> {
        match self.bits() {
            0 => None,
            bits => elements.checked_mul(bits).map(|total| total.div_ceil(8)),
        }
    }

    /// A floating-point type of any width.
    pub fn is_float(self) -> bool {
        self.class() == Class::Float
    }

    /// A signed or unsigned integer of any width (not bool).
    pub fn is_int(self) -> bool {
        matches!(self.class(), Class::Signed | Class::Unsigned)
    }

    /// f32, f16, bf16 or f64: the types that models compute in.
    pub fn is_compute_float(self) -> bool {
        matches!(self, DType::F32 | DType::F16 | DType::BF16 | DType::F64)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
