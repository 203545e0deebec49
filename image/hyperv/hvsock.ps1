# Talks to a guest by hv_sock: what it sends goes to the console, what is typed goes to it, line by line.
# With -Listen it waits for the guest to connect, as the guest does to ports 1, 109 and 0x40000000; else it
# connects to a port on which the guest listens. Not yet run on Windows: see README.md.
#Requires -RunAsAdministrator
param(
    [Parameter(Mandatory)][guid]$VmId,
    [Parameter(Mandatory)][int64]$Port,
    [switch]$Listen
)
Set-StrictMode -Version 2.0
$ErrorActionPreference = 'Stop'

Add-Type -TypeDefinition @'
using System;
using System.Net;
using System.Net.Sockets;

// SOCKADDR_HV: family, two bytes that are reserved, machine, service.
public sealed class HvEndPoint : EndPoint
{
    private readonly Guid machine;
    private readonly Guid service;

    public HvEndPoint(Guid machine, Guid service)
    {
        this.machine = machine;
        this.service = service;
    }

    public override AddressFamily AddressFamily { get { return (AddressFamily)34; } }

    public override SocketAddress Serialize()
    {
        var address = new SocketAddress((AddressFamily)34, 36);
        byte[] first = machine.ToByteArray();
        byte[] second = service.ToByteArray();
        for (int i = 0; i < 16; i++)
        {
            address[4 + i] = first[i];
            address[20 + i] = second[i];
        }
        return address;
    }

    public override EndPoint Create(SocketAddress address)
    {
        byte[] first = new byte[16];
        byte[] second = new byte[16];
        for (int i = 0; i < 16; i++)
        {
            first[i] = address[4 + i];
            second[i] = address[20 + i];
        }
        return new HvEndPoint(new Guid(first), new Guid(second));
    }
}
'@

$service = [guid]('{0:x8}-facb-11e6-bd58-64006a7986d3' -f $Port)
$address = New-Object HvEndPoint $VmId, $service
# HV_PROTOCOL_RAW
$socket = New-Object System.Net.Sockets.Socket ([System.Net.Sockets.AddressFamily]34), ([System.Net.Sockets.SocketType]::Stream), ([System.Net.Sockets.ProtocolType]1)
if ($Listen) {
    $socket.Bind($address)
    $socket.Listen(1)
    Write-Host "waiting for the guest on port $Port ($service)"
    $connection = $socket.Accept()
} else {
    $socket.Connect($address)
    $connection = $socket
}
Write-Host 'connected; Ctrl-C ends'

$stream = New-Object System.Net.Sockets.NetworkStream $connection, $true
$bytes = New-Object byte[] 4096
$reading = $stream.ReadAsync($bytes, 0, $bytes.Length)
$typing = [Console]::In.ReadLineAsync()
while ($true) {
    $which = [System.Threading.Tasks.Task]::WaitAny(@($reading, $typing))
    if ($which -eq 0) {
        if ($reading.Result -eq 0) { break }
        [Console]::Out.Write([Text.Encoding]::UTF8.GetString($bytes, 0, $reading.Result))
        $reading = $stream.ReadAsync($bytes, 0, $bytes.Length)
    } else {
        if ($null -eq $typing.Result) { break }
        $line = [Text.Encoding]::UTF8.GetBytes($typing.Result + "`n")
        $stream.Write($line, 0, $line.Length)
        $typing = [Console]::In.ReadLineAsync()
    }
}
$connection.Close()
