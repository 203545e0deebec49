# Starts a utility VM from a document of the host compute service (HCS), as containerd's shim does, and ends
# it with Enter. Not yet run on Windows: see README.md.
#
#   .\start-uvm.ps1 -Document .\uvm-direct.json
#Requires -RunAsAdministrator
param(
    [Parameter(Mandatory)][string]$Document,
    [guid]$Id = [guid]::NewGuid()
)
Set-StrictMode -Version 2.0
$ErrorActionPreference = 'Stop'

Add-Type -TypeDefinition @'
using System;
using System.ComponentModel;
using System.Runtime.InteropServices;

public static class Hcs
{
    const string Dll = "computecore.dll";

    [DllImport(Dll)] static extern IntPtr HcsCreateOperation(IntPtr context, IntPtr callback);
    [DllImport(Dll)] static extern void HcsCloseOperation(IntPtr operation);
    [DllImport(Dll, CharSet = CharSet.Unicode)] static extern int HcsCreateComputeSystem(
        string id, string configuration, IntPtr operation, IntPtr security, out IntPtr system);
    [DllImport(Dll, CharSet = CharSet.Unicode)] static extern int HcsStartComputeSystem(
        IntPtr system, IntPtr operation, string options);
    [DllImport(Dll, CharSet = CharSet.Unicode)] static extern int HcsTerminateComputeSystem(
        IntPtr system, IntPtr operation, string options);
    [DllImport(Dll)] static extern void HcsCloseComputeSystem(IntPtr system);
    [DllImport(Dll)] static extern int HcsWaitForOperationResult(IntPtr operation, uint milliseconds, out IntPtr result);
    [DllImport(Dll, CharSet = CharSet.Unicode)] static extern int HcsGrantVmAccess(string id, string file);

    delegate int Work(IntPtr operation);

    static void Run(string what, Work work)
    {
        IntPtr operation = HcsCreateOperation(IntPtr.Zero, IntPtr.Zero);
        IntPtr result = IntPtr.Zero;
        try
        {
            int status = work(operation);
            if (status >= 0) status = HcsWaitForOperationResult(operation, 120000, out result);
            // The service's own words are in the result.
            string words = result == IntPtr.Zero ? "" : Marshal.PtrToStringUni(result);
            if (status < 0) throw new Win32Exception(status, string.Format("{0}: 0x{1:x8} {2}", what, status, words));
        }
        finally
        {
            if (result != IntPtr.Zero) Marshal.FreeHGlobal(result);
            HcsCloseOperation(operation);
        }
    }

    public static void Grant(string id, string file)
    {
        int status = HcsGrantVmAccess(id, file);
        if (status < 0) throw new Win32Exception(status, string.Format("access to {0}: 0x{1:x8}", file, status));
    }

    public static IntPtr Start(string id, string document)
    {
        IntPtr system = IntPtr.Zero;
        Run("creating the VM", delegate(IntPtr op) { return HcsCreateComputeSystem(id, document, op, IntPtr.Zero, out system); });
        Run("starting the VM", delegate(IntPtr op) { return HcsStartComputeSystem(system, op, null); });
        return system;
    }

    public static void End(IntPtr system)
    {
        Run("ending the VM", delegate(IntPtr op) { return HcsTerminateComputeSystem(system, op, null); });
        HcsCloseComputeSystem(system);
    }
}
'@

$text = Get-Content -Raw -Path $Document
$machine = ($text | ConvertFrom-Json).VirtualMachine
# The VM runs as a user of its own, who has to be let at each file.
$direct = $machine.Chipset.PSObject.Properties['LinuxKernelDirect']
if ($direct) {
    [Hcs]::Grant("$Id", $direct.Value.KernelFilePath)
    [Hcs]::Grant("$Id", $direct.Value.InitRdPath)
}
$disks = $machine.Devices.PSObject.Properties['Scsi']
if ($disks) {
    foreach ($controller in $disks.Value.PSObject.Properties) {
        foreach ($place in $controller.Value.Attachments.PSObject.Properties) { [Hcs]::Grant("$Id", $place.Value.Path) }
    }
}
$system = [Hcs]::Start("$Id", $text)
Write-Host "$Id runs (hcsdiag list). In other windows:"
Write-Host "  putty -serial \\.\pipe\lcow-uvm"
Write-Host "  .\hvsock.ps1 -VmId $Id -Port 109 -Listen"
[void](Read-Host 'Enter ends it')
[Hcs]::End($system)
