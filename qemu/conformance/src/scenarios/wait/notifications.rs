//! Exit notifications. A second one, or one of a container that was not created, is a breach
//! that ends the VM.

use serde_json::{json, Value};

use super::process::{ended_by, started};
use crate::{
    codes, fail, refused, same, that, Checked, Container, Guest, Lab, LIMIT, PLACE, TOOLS,
};
use uvm_host::wire::Rpc;

pub fn never_started(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let container = vm.container("sleep 1000").create()?;
    vm.shutdown(container.id(), true)?;
    ended_by(&container, "ForcedExit")?;
    container.remove()
}

pub fn one_each(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    // By itself, with a waiter and without.
    let container = vm.container("exit 1").create()?;
    container.init().run()?;
    container.exited()?;
    vm.shutdown(container.id(), true)?;
    container.remove()?;
    let container = vm.container("exit 2").create()?;
    super::process::start_unwaited(&vm, container.id(), json!({}))?;
    container.exited()?;
    container.remove()?;
    // Killed, never started, deleted as created.
    let container = vm.container("sleep 1000").create()?;
    drop(container.start()?);
    container.kill()?;
    container.remove()?;
    let container = vm.container("sleep 1000").create()?;
    container.kill()?;
    container.remove()?;
    let container = vm.container("sleep 1000").create()?;
    vm.remove_layers(&container.root())?;
    vm.delete(container.id())?;
    drop(container);
    // A failed Create, and the same id afterwards.
    let mounted = vm.container("exit 3").mount()?;
    let id = mounted.plan().id().to_owned();
    let mut broken = mounted.plan().document();
    broken["OciSpecification"]["root"] = Value::Null;
    refused(vm.create_document(&id, &broken), codes::FAIL)?;
    let (layers, scratch) = ([TOOLS.to_owned()], format!("{PLACE}/{id}"));
    // The failure may have taken the mount along.
    drop(vm.combine_layers(&id, &uvm::container::root(&id), &layers, Some(&scratch)));
    let container = mounted.create()?;
    container.init().run()?;
    container.exited()?;
    container.remove()?;
    // Whatever was still on its way is there before this is answered.
    vm.dump_stacks()?;
    that(
        vm.ended().is_none(),
        "one notification for each",
        "a breach",
    )
}

fn type_of(container: &Container<'_>) -> Checked<String> {
    let exit = container.exited()?;
    Ok(exit["Type"].as_str().unwrap_or_default().to_owned())
}

fn listening<'g>(vm: &'g Guest, trap: &str) -> Checked<Container<'g>> {
    let script = format!("trap '{trap}' TERM; echo ready; while :; do sleep 0.05; done");
    Ok(started(vm, &script)?.0)
}

pub fn types(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let container = vm.container("exit 0").create()?;
    container.init().run()?;
    same(
        "Type after an exit of its own",
        "UnexpectedExit",
        type_of(&container)?.as_str(),
    )?;
    container.remove()?;

    // Faster than the answer, often enough.
    for _ in 0..5 {
        let container = listening(&vm, "exit 0")?;
        vm.shutdown(container.id(), false)?;
        same(
            "Type after SIGTERM",
            "GracefulExit",
            type_of(&container)?.as_str(),
        )?;
        container.remove()?;
        let container = listening(&vm, "exit 0")?;
        vm.shutdown(container.id(), true)?;
        same(
            "Type after SIGKILL",
            "ForcedExit",
            type_of(&container)?.as_str(),
        )?;
        container.remove()?;
    }
    let container = listening(&vm, ":")?;
    vm.shutdown(container.id(), false)?;
    vm.shutdown(container.id(), true)?;
    same(
        "Type after both",
        "ForcedExit",
        type_of(&container)?.as_str(),
    )?;
    container.remove()
}

pub fn members(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let judge = |exit: &serde_json::Map<String, Value>, activity: Option<&str>| -> Checked {
        same(
            "Operation",
            Some("None"),
            exit.get("Operation").and_then(Value::as_str),
        )?;
        same(
            "Result",
            Some(0),
            exit.get("Result").and_then(Value::as_i64),
        )?;
        same("ResultInfo", None::<&Value>, exit.get("ResultInfo"))?;
        same(
            "ActivityId",
            activity,
            exit.get("ActivityId").and_then(Value::as_str),
        )
    };
    for activity in [Some("12345678-9abc-def0-1234-56789abcdef0"), None] {
        let mounted = vm.container("exit 0").mount()?;
        let id = mounted.plan().id().to_owned();
        let mut document = json!({
            "ContainerId": id, "ContainerConfig": mounted.plan().document().to_string()});
        if let Some(activity) = activity {
            document["ActivityId"] = activity.into();
        }
        vm.register(&id);
        let answer = vm.ask_json(Rpc::Create, &document)?;
        if answer.code() != 0 {
            mounted.discard();
            return Err(fail("a container", answer.text()));
        }
        let container = mounted.created();
        container.init().run()?;
        let exit = vm.wait_notification(&id, LIMIT)?.members;
        judge(&exit, activity)?;
        container.remove()?;
    }
    Ok(())
}
