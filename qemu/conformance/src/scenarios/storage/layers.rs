//! CombinedLayers.

use serde_json::json;

use super::plugged::{gone, mount_line};
use crate::{codes, contains, refused, same, that, Checked, Guest, Lab, PLACE};

/// As many as an image may have.
const MOST: usize = 128;

/// Directories of a scenario: layers are plain directories to the guest.
struct Stack<'g> {
    vm: &'g Guest,
    base: String,
}

impl<'g> Stack<'g> {
    fn new(vm: &'g Guest, script: &str) -> Checked<Self> {
        let base = format!("{PLACE}/{}", vm.fresh("layers"));
        vm.sh(&format!("mkdir -p {base} && cd {base} && {script}"))?;
        Ok(Self { vm, base })
    }

    fn root(&self) -> String {
        format!("{}/root", self.base)
    }

    fn add(&self, layers: &[&str], scratch: Option<&str>) -> Result<(), uvm_host::HostError> {
        let at = |name: &str| format!("{}/{name}", self.base);
        let layers: Vec<String> = layers.iter().map(|layer| at(layer)).collect();
        let scratch = scratch.map(at);
        self.vm
            .combine_layers("lab", &self.root(), &layers, scratch.as_deref())
    }

    /// A script in the root.
    fn sh(&self, script: &str) -> Checked<String> {
        self.vm.sh(&format!("cd {} && {script}", self.root()))
    }

    fn remove(&self) -> Checked {
        Ok(self.vm.remove_layers(&self.root())?)
    }
}

impl Drop for Stack<'_> {
    fn drop(&mut self) {
        if self.vm.ended().is_none() {
            drop(self.remove());
            drop(self.vm.sh(&format!(
                "grep -q ' {0}/' /proc/mounts || rm -rf {0}",
                self.base
            )));
        }
    }
}

pub fn order(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let stack = Stack::new(
        &vm,
        "for l in top middle bottom; do mkdir -p $l/d; \
        echo $l > $l/who; echo $l > $l/only-$l; echo $l > $l/d/$l; done",
    )?;
    stack.add(&["top", "middle", "bottom"], None)?;
    same("who", "top", stack.sh("cat who")?)?;
    same(
        "all",
        "bottom middle top",
        stack.sh("echo $(cat only-* | sort)")?,
    )?;
    same("merged", "bottom middle top", stack.sh("echo $(ls d)")?)?;
    stack.remove()?;

    // What an upper directory says of deleted files and replaced directories holds as a layer.
    stack.add(&["top", "bottom"], Some("change"))?;
    stack.sh("rm only-bottom && rm -r d && mkdir d && echo new > d/new")?;
    stack.remove()?;
    stack.add(&["change/upper", "top", "bottom"], None)?;
    same(
        "after the change",
        "d only-top who",
        stack.sh("echo $(ls)")?,
    )?;
    same("the replaced directory", "new", stack.sh("ls d")?)?;
    stack.remove()?;

    let many: Vec<String> = (0..MOST).map(|number| format!("many/m{number}")).collect();
    vm.sh(&format!(
        "cd {} && mkdir many && cd many && for n in $(seq 0 {}); do \
         mkdir m$n; echo $n > m$n/who; : > m$n/f$n; done",
        stack.base,
        MOST - 1
    ))?;
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    stack.add(&many, Some("scratch"))?;
    same("who of 128", "0", stack.sh("cat who")?)?;
    same(
        "files of 128",
        MOST.to_string(),
        stack.sh("ls -d f* | wc -l")?,
    )
}

pub fn scratch(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let stack = Stack::new(&vm, "mkdir a b && echo a > a/file && echo b > b/other")?;
    stack.add(&["a", "b"], Some("scratch"))?;
    stack.sh("echo changed > file && echo new > new && rm other")?;
    let upper = vm.sh(&format!(
        "cd {}/scratch && ls && cat upper/file upper/new",
        stack.base
    ))?;
    same("the scratch", "upper\nwork\nchanged\nnew", upper)?;
    same(
        "the layer",
        "a",
        vm.sh(&format!("cat {}/a/file", stack.base))?,
    )?;
    stack.remove()?;
    for layers in [&["a", "b"][..], &["a"]] {
        stack.add(layers, None)?;
        contains("the mount", " ro", &mount_line(&vm, &stack.root())?)?;
        same("the file", "a", stack.sh("cat file")?)?;
        let written = vm.shell(&format!("echo x > {}/new", stack.root()))?.run()?;
        that(written.code != 0, "no write to succeed", "one that did")?;
        stack.remove()?;
    }
    Ok(())
}

pub fn removal(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let stack = Stack::new(&vm, "mkdir a b")?;
    stack.add(&["a", "b"], Some("scratch"))?;
    stack.sh("echo kept > new")?;
    stack.remove()?;
    gone(&vm, &stack.root())?;
    same(
        "upper",
        "kept",
        vm.sh(&format!("cat {}/scratch/upper/new", stack.base))?,
    )?;
    // Again, and of what never was.
    stack.remove()?;
    vm.remove_layers(&format!("{PLACE}/never"))?;
    Ok(())
}

pub fn failure(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let stack = Stack::new(&vm, "mkdir -p a s/upper && echo kept > s/upper/file")?;
    let list = format!("cd {} && find . | sort", stack.base);
    let before = vm.sh(&list)?;
    refused(stack.add(&["a", "missing"], Some("s")), codes::FAIL)?;
    same("what is there", before.clone(), vm.sh(&list)?)?;
    refused(stack.add(&["missing"], Some("new/scratch")), codes::FAIL)?;
    same("what is there", before.clone(), vm.sh(&list)?)?;
    refused(stack.add(&[], Some("s")), codes::FAIL)?;
    let nowhere = json!({"ContainerRootPath": "", "Layers": [{"Path": "/"}]});
    refused(vm.modify("CombinedLayers", "Add", nowhere), codes::FAIL)?;
    same("what is there", before, vm.sh(&list)?)
}
