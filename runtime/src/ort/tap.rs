//! Looking at values inside ONNX Runtime while it computes them.
//!
//! Making a value an output of the model would show it too, but then the runtime may not reuse its memory before the run
//! ends: every value is written to fresh memory and read back from there after it has left the caches, and a run costs a
//! tenth more even if nobody looks. Instead an operator of ours, `onnxq.Tap`, reads each wanted value behind its writer.
//!
//! A tap takes the value, its number, and an input of the model: what depends on an input is not folded when the model is
//! loaded. It gives a single byte, an output of the model, so that no runtime takes it for dead. Taps stand at the end of
//! the graph, the first value's last: ONNX Runtime orders operators depth first, starting from the last leaf, so this puts
//! each behind its value. (Another order would cost memory, nothing else.)

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;

use ::ort::Error;
use ::ort::operator::{
    ComputeContext, Kernel, KernelContext, Operator, OperatorDomain, OperatorInput, OperatorOutput,
};
use ::ort::value::{DynTensorValueType, TensorElementType};
use ir::{Graph, Model, Op, OpKind, Place, Role, Shape, Tensor, Type, TypeKind};

use super::convert;
use crate::Observer;

const DOMAIN: &str = "onnxq";
const NAME: &str = "Tap";
/// How what belongs to taps is named, as far as the model leaves these names free.
const OUTPUT: &str = "onnxq_tap_";

/// The taps of a model, by number.
#[derive(Default)]
pub(super) struct Taps {
    /// The values that they show.
    pub(super) names: Vec<String>,
    /// Their own outputs, which nobody asked for.
    pub(super) outputs: Vec<String>,
}

/// The operators of ours.
pub(super) fn domain() -> ort::Result<OperatorDomain> {
    OperatorDomain::new(DOMAIN)?.add(Tap)
}

/// Puts a tap behind each of these values that can have one: a tensor that is computed. The rest must be
/// made outputs.
pub(super) fn insert(model: &mut Model, wanted: &[String]) -> Result<Taps, String> {
    let main = model.main_mut();
    let is_tensor = |graph: &Graph, value| {
        let value = graph.value(value);
        let dense = value.ty.as_ref().is_some_and(|ty| matches!(ty.kind, TypeKind::Tensor(_)));
        dense && value.dtype().is_some_and(convert::is_plain)
    };
    let open = main.inputs().iter().copied().find(|&id| main.value(id).data.is_none() && is_tensor(main, id));
    let Some(open) = open else { return Ok(Taps::default()) };
    let fails = |error: &dyn std::fmt::Display| error.to_string();
    let mut taps = Vec::new();
    for name in wanted {
        let Some(value) = main.find(name) else { continue };
        if main.value(value).role() == Role::Computed && !main.is_output(value) && is_tensor(main, value) {
            taps.push((name.clone(), value));
        }
    }
    // In the order of execution, the first at the very end.
    let order: std::collections::HashMap<_, _> = main
        .schedule()
        .map_err(|error| fails(&error))?
        .into_iter()
        .enumerate()
        .flat_map(|(at, op)| main.op_outputs(op).to_vec().into_iter().flatten().map(move |value| (value, at)))
        .collect();
    taps.sort_by_key(|(_, value)| std::cmp::Reverse(order.get(value).copied()));
    let mut found = Taps::default();
    for (number, (name, value)) in taps.into_iter().enumerate() {
        let index = Tensor::from_slice(&[][..], &[number as i64]).map_err(|error| fails(&error))?;
        let index_name = main.fresh_name(&format!("{OUTPUT}index_{number}"));
        let index = main.add_initializer(&index_name, index).map_err(|error| fails(&error))?;
        let shown = main.new_value(
            &format!("{OUTPUT}{number}"),
            Some(Type::tensor(ir::DType::U8, Some(Shape::fixed(&[0])))),
        );
        let op = Op::of(OpKind::new(DOMAIN, NAME)).named(&format!("{OUTPUT}{number}"));
        main.add_op(op, &[Some(value), Some(index), Some(open)], &[Some(shown)], Place::End)
            .map_err(|error| fails(&error))?;
        main.add_output(shown);
        found.outputs.push(main.value(shown).name().to_string());
        found.names.push(name);
    }
    if !found.names.is_empty() {
        model.raise_opset(DOMAIN, 1);
    }
    Ok(found)
}

/// Who looks, and what the numbers of the taps mean.
#[derive(Clone, Copy)]
struct Watch {
    observer: NonNull<dyn Observer>,
    names: NonNull<[String]>,
}

thread_local! {
    /// Set while a run is under way on this thread: kernels of a session with one thread run on their caller's.
    static WATCH: Cell<Option<Watch>> = const { Cell::new(None) };
}

/// Runs a model with taps that show their values to `observer`. `names` are those of [`Taps`].
pub(super) fn watching<T>(observer: &mut dyn Observer, names: &[String], run: impl FnOnce() -> T) -> T {
    struct Restore(Option<Watch>);
    impl Drop for Restore {
        fn drop(&mut self) {
            WATCH.set(self.0);
        }
    }
    let observer: NonNull<dyn Observer + '_> = NonNull::from(observer);
    // SAFETY: only the lifetime changes. The pointer is taken out of `WATCH` again before this function returns, also by a
    // panic, and `observer` is borrowed until then.
    let observer: NonNull<dyn Observer> = unsafe { std::mem::transmute(observer) };
    let _restore = Restore(WATCH.replace(Some(Watch { observer, names: NonNull::from(names) })));
    run()
}

struct Tap;

impl Operator for Tap {
    type Kernel<'attr> = Look;

    fn name(&self) -> &str {
        NAME
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [OperatorInput::variadic(3)]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Uint8)]
    }

    fn create_kernel<'attr>(&self, _: &KernelContext<'attr>) -> ort::Result<Look> {
        Ok(Look)
    }
}

/// Holds nothing: kernels of one session may run on several threads.
struct Look;

impl Kernel for Look {
    fn compute(&mut self, cx: &ComputeContext) -> ort::Result<()> {
        let missing = || Error::new("a tap without input");
        let value = cx.input(0)?.ok_or_else(missing)?;
        let number = cx.input(1)?.ok_or_else(missing)?;
        let number = number.try_extract_tensor::<i64>()?.1.first().copied().unwrap_or(-1);
        let tensor = value.downcast::<DynTensorValueType>()?;
        // Taken out while the observer looks: it is borrowed mutably once.
        let watch = WATCH.take().ok_or_else(|| Error::new("a tap ran on a thread that nobody watches"))?;
        let shown = show(watch, number, &tensor);
        WATCH.set(Some(watch));
        shown?;
        cx.output(0, [0i64])?;
        Ok(())
    }
}

fn show(mut watch: Watch, number: i64, value: &ort::value::DynTensor) -> ort::Result<()> {
    // SAFETY: `watching` borrows both for as long as they can be found in `WATCH`, and the caller took them out of it.
    let (names, observer) = unsafe { (watch.names.as_ref(), watch.observer.as_mut()) };
    let name = usize::try_from(number).ok().and_then(|number| names.get(number));
    let name = name.ok_or_else(|| Error::new("a tap without a name"))?;
    let looked = catch_unwind(AssertUnwindSafe(|| convert::show(name, value, observer)));
    looked.map_err(|_| Error::new(format!("looking at {name:?} panicked")))
}
