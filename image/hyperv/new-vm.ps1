# Makes a Hyper-V machine of generation 2 that boots out/uvm-gen2.vhdx, with COM1 on a named pipe, and lets
# programs of this host talk to it by hv_sock. Undo with -Remove. Not yet run on Windows: see README.md.
#
#   .\new-vm.ps1 -Disk C:\uvm\uvm-gen2.vhdx
#Requires -RunAsAdministrator
#Requires -Modules Hyper-V
[CmdletBinding(DefaultParameterSetName = 'Make')]
param(
    [Parameter(Mandatory, ParameterSetName = 'Make')][string]$Disk,
    [Parameter(Mandatory, ParameterSetName = 'Remove')][switch]$Remove,
    [string]$Name = 'lcow-uvm',
    [ValidateRange(256, 65536)][int]$MemoryMB = 1024,
    [ValidateRange(1, 64)][int]$Processors = 2,
    # A virtual switch, for an adapter; without one the machine has none.
    [string]$Switch
)
Set-StrictMode -Version 2.0
$ErrorActionPreference = 'Stop'

# Port of vsock -> what the guest or the host does there. The service of port N is N in eight hexadecimal
# digits before this.
$suffix = '-facb-11e6-bd58-64006a7986d3'
$services = [ordered]@{
    1          = 'lcow-uvm entropy'
    109        = 'lcow-uvm log'
    1073741824 = 'lcow-uvm bridge'
    2323       = 'lcow-uvm shell'
}
$registry = 'HKLM:\SOFTWARE\Microsoft\Windows NT\CurrentVersion\Virtualization\GuestCommunicationServices'

if ($Remove) {
    if (Get-VM -Name $Name -ErrorAction SilentlyContinue) {
        Stop-VM -Name $Name -TurnOff -Force
        Remove-VM -Name $Name -Force
    }
    foreach ($port in $services.Keys) {
        $key = Join-Path $registry ('{0:x8}{1}' -f [int64]$port, $suffix)
        if (Test-Path $key) { Remove-Item $key }
    }
    Write-Host "$Name is removed; its disk is left."
    return
}

$file = (Resolve-Path $Disk).Path
if (Get-VM -Name $Name -ErrorAction SilentlyContinue) { throw "There is a machine $Name already: remove it with -Remove, or choose another -Name." }
foreach ($port in $services.Keys) {
    $key = Join-Path $registry ('{0:x8}{1}' -f [int64]$port, $suffix)
    if (-not (Test-Path $key)) { New-Item -Path $key | Out-Null }
    Set-ItemProperty -Path $key -Name 'ElementName' -Value $services[$port]
}

$new = @{ Name = $Name; Generation = 2; MemoryStartupBytes = $MemoryMB * 1MB; VHDPath = $file }
if ($Switch) { $new.SwitchName = $Switch }
New-VM @new | Out-Null
if (-not $Switch) { Get-VMNetworkAdapter -VMName $Name | Remove-VMNetworkAdapter }
Set-VMMemory -VMName $Name -DynamicMemoryEnabled $false
Set-VMProcessor -VMName $Name -Count $Processors
# Nobody has signed the program on the disk. The firmware's own words go to COM1 too.
Set-VMFirmware -VMName $Name -EnableSecureBoot Off -ConsoleMode COM1 -FirstBootDevice (Get-VMHardDiskDrive -VMName $Name)
Set-VMComPort -VMName $Name -Number 1 -Path "\\.\pipe\$Name"
# The disk stays as it was built, and nothing of a machine for trying things is worth saving.
Set-VM -Name $Name -AutomaticCheckpointsEnabled $false -CheckpointType Disabled -AutomaticStopAction TurnOff

$id = (Get-VM -Name $Name).Id
Write-Host "$Name ($id) is made. Next:"
Write-Host "  putty -serial \\.\pipe\$Name          (before the start, so that no line is lost)"
Write-Host "  Start-VM $Name"
Write-Host "  .\hvsock.ps1 -VmId $id -Port 109 -Listen      (the guest's log)"
Write-Host "  .\hvsock.ps1 -VmId $id -Port 2323             (a shell, where the image gives one)"
