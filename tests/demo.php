<?php
// The PHP demo that this project is a port of, in words of our own: its names, its order, PHP 8.
//
//     php tests/demo.php [ADDRESS PORT] [FAULT...]
//
// Without a fault it is mended as little as it can be, and chats. Each FAULT puts back one thing
// that the printed demo does; without arguments that it knows it lists them. Read the constructor
// first: it is the whole loop.

const FAULTS = [
    'echo'        => 'prints a Socket as if it were a string: PHP 8 ends there',
    'commented'   => 'the call of dohandshake() is a comment: nobody gets an answer',
    'bare-socket' => 'socket_write(socket, ...) without $: the first handshake ends it',
    'bare-decode' => 'decode() without $this->: the first message ends it',
    'kept-set'    => 'socket_select() is given the list itself, and overwrites it',
    'return'      => 'leaves the loop when one client leaves',
    'one-flag'    => 'one handshake flag for all clients',
    'nul'         => 'sends chr(0) behind the 101',
    'one-request' => 'takes what one socket_recv() gives for the whole request',
    'case'        => 'knows the field Sec-WebSocket-Key in this spelling only',
    'anything'    => 'answers 101 to whatever comes',
    'one-frame'   => 'takes what one socket_recv() gives for one frame',
    'no-opcode'   => 'takes every frame for a text: a Ping, a Close',
    'pieces'      => 'cuts what it sends into frames of 125 bytes, each with FIN',
    'no-send'     => 'the call of process() is a comment: nobody hears anything',
    'blocking'    => 'socket_write() waits until the client takes all',
    'backlog'     => 'lets two connections wait to be accepted',
    'accept'      => 'looks for a failed socket_accept() with < 0, but that is false',
];

function fault(string $name): bool
{
    global $faults;
    return in_array($name, $faults);
}

class WS
{
    public $master;           // the socket that listens
    public $sockets = [];     // the master and all clients
    public $handshake = [];   // done? by the client's id (with one-flag: the same id for all)
    public $received = [];    // from a client: bytes of a request or frame that is not whole yet
    public $message = [];     // from a client: the fragments of a message that is not whole yet
    public $waiting = [];     // for a client: bytes that it has not taken yet

    function __construct($address, $port)
    {
        $this->master = socket_create(AF_INET, SOCK_STREAM, SOL_TCP)
            or die("socket_create() failed\n");
        socket_set_option($this->master, SOL_SOCKET, SO_REUSEADDR, 1)
            or die("socket_set_option() failed\n");
        socket_bind($this->master, $address, $port) or die("socket_bind() failed\n");
        socket_listen($this->master, fault('backlog') ? 2 : SOMAXCONN)
            or die("socket_listen() failed\n");
        $this->sockets[] = $this->master;
        echo 'Master socket  : ' . (fault('echo') ? $this->master : "$address:$port") . "\n";

        while (true) {
            $write = array_filter($this->sockets, fn($one) => $this->has_waiting($one));
            $except = null;
            if (fault('kept-set')) {
                socket_select($this->sockets, $write, $except, null);
                $read = $this->sockets;
            } else {
                $read = $this->sockets;
                socket_select($read, $write, $except, null);
            }
            foreach ($write as $socket) $this->flush($socket);
            foreach ($read as $socket) {
                if ($socket === $this->master) {
                    $client = @socket_accept($this->master);
                    if (fault('accept') ? $client < 0 : $client === false) {
                        echo "socket_accept() failed\n";
                        usleep(10000);  // it would fail again at once: no descriptor is free
                        continue;
                    }
                    $this->connect($client);
                    continue;
                }
                $bytes = @socket_recv($socket, $buffer, 2048, 0);
                if (!$bytes) {
                    if (fault('return')) return;
                    $this->disconnect($socket);
                } elseif (empty($this->handshake[$this->flag($socket)])) {
                    echo "shakeHands\n";
                    if (!fault('commented')) $this->dohandshake($socket, $buffer);
                } else {
                    $this->take_frames($socket, $buffer);
                }
            }
        }
    }

    function id($socket)
    {
        return spl_object_id($socket);
    }

    function flag($socket)
    {
        return fault('one-flag') ? 0 : $this->id($socket);
    }

    function connect($client)
    {
        $this->sockets[] = $client;
        if ($client === false) return;  // as the fault 'accept' has it
        if (!fault('blocking')) socket_set_nonblock($client);
        $id = $this->id($client);
        $this->received[$id] = $this->message[$id] = $this->waiting[$id] = '';
        echo "connect client\n";
    }

    function disconnect($socket)
    {
        $key = array_search($socket, $this->sockets, true);
        if ($key !== false) unset($this->sockets[$key]);
        $id = $this->id($socket);
        unset($this->received[$id], $this->message[$id], $this->waiting[$id]);
        if (!fault('one-flag')) unset($this->handshake[$id]);
        socket_close($socket);
        echo "disconnect client\n";
    }

    // --- the opening handshake ---

    function getKey($req)
    {
        $pattern = '/Sec-WebSocket-Key: *(.*)\r\n/' . (fault('case') ? '' : 'i');
        return preg_match($pattern, $req, $match) ? trim($match[1]) : null;
    }

    function encry($req)
    {
        $text = $this->getKey($req) . '258EAFA5-E914-47DA-95CA-C5AB0DC85B11';
        return base64_encode(sha1($text, true));
    }

    function dohandshake($socket, $req)
    {
        if (!fault('one-request')) {
            $this->received[$this->id($socket)] .= $req;
            $req = $this->received[$this->id($socket)];
            if (!str_contains($req, "\r\n\r\n")) return;
        }
        $asks = preg_match('/^GET .*\r\nUpgrade: *websocket\r\n/is', $req) && $this->getKey($req);
        if (!$asks && !fault('anything') && !fault('case') && !fault('one-request')) {
            $this->write($socket, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
            $this->disconnect($socket);
            return;
        }
        $this->write($socket, "HTTP/1.1 101 Switching Protocols\r\n"
            . "Upgrade: websocket\r\n"
            . "Connection: Upgrade\r\n"
            . 'Sec-WebSocket-Accept: ' . $this->encry($req) . "\r\n"
            . "\r\n" . (fault('nul') ? chr(0) : ''));
        $this->handshake[$this->flag($socket)] = true;
        if (fault('one-request')) return;
        $this->received[$this->id($socket)] = '';
        $frames = substr($req, strpos($req, "\r\n\r\n") + 4);
        if ($frames !== '') $this->take_frames($socket, $frames);
    }

    // --- frames in ---

    function take_frames($socket, $bytes)
    {
        if (fault('bare-decode')) $bytes = decode($bytes);
        $id = $this->id($socket);
        if (fault('one-frame')) {
            [$first, $payload] = [ord($bytes[0]), $this->decode($bytes)];
            $this->take_frame($socket, $first, $payload);
            return;
        }
        $this->received[$id] .= $bytes;
        while (isset($this->received[$id])) {
            $size = $this->frame_size($this->received[$id]);
            if ($size === null || strlen($this->received[$id]) < $size) return;
            $frame = substr($this->received[$id], 0, $size);
            $this->received[$id] = substr($this->received[$id], $size);
            $this->take_frame($socket, ord($frame[0]), $this->decode($frame));
        }
    }

    // The bytes of the frame that begins there, with its header; null while that is not known.
    function frame_size($bytes)
    {
        if (strlen($bytes) < 2) return null;
        $length = ord($bytes[1]) & 127;
        if ($length < 126) return 6 + $length;
        if (strlen($bytes) < 10) return null;
        if ($length === 126) return 8 + unpack('n', $bytes, 2)[1];
        return 14 + unpack('J', $bytes, 2)[1];
    }

    // The payload of one frame, unmasked.
    function decode($frame)
    {
        $length = ord($frame[1] ?? '') & 127;
        $start = [126 => 4, 127 => 10][$length] ?? 2;
        $key = substr($frame, $start, 4);
        $masked = substr($frame, $start + 4);
        if ($masked === '' || strlen($key) < 4) return '';
        return $masked ^ substr(str_repeat($key, intdiv(strlen($masked), 4) + 1), 0, strlen($masked));
    }

    function take_frame($socket, $first, $payload)
    {
        $opcode = fault('no-opcode') ? 1 : $first & 15;
        if ($opcode === 8) {
            $this->write($socket, $this->frame($payload, 8));
            $this->disconnect($socket);
        } elseif ($opcode === 9) {
            $this->write($socket, $this->frame($payload, 10));
        } elseif ($opcode < 3) {
            $this->message[$this->id($socket)] .= $payload;
            if (!($first & 128)) return;
            echo "send file\n";
            $message = $this->message[$this->id($socket)];
            $this->message[$this->id($socket)] = '';
            if (!fault('no-send')) $this->process($socket, $message);
        }
    }

    // --- frames out ---

    function process($socket, $message)
    {
        foreach ($this->sockets as $one) {
            if ($one === $this->master || empty($this->handshake[$this->flag($one)])) continue;
            $this->send($one, $message);
        }
    }

    function send($client, $message)
    {
        $this->write($client, $this->frame($message, 1));
    }

    function frame($payload, $opcode)
    {
        if (fault('pieces') && $opcode === 1) {
            $frames = '';
            foreach (str_split($payload, 125) as $piece) {
                $frames .= chr(129) . chr(strlen($piece)) . $piece;
            }
            return $frames;
        }
        $length = strlen($payload);
        $first = chr(128 | $opcode);
        if ($length < 126) return $first . chr($length) . $payload;
        if ($length < 65536) return $first . chr(126) . pack('n', $length) . $payload;
        return $first . chr(127) . pack('J', $length) . $payload;
    }

    function write($socket, $bytes)
    {
        if (fault('bare-socket')) socket_write(socket, $bytes, strlen($bytes));
        if (fault('blocking')) {
            while ($bytes !== '') {
                $sent = @socket_write($socket, $bytes, strlen($bytes));
                if (!$sent) return;
                $bytes = substr($bytes, $sent);
            }
            return;
        }
        $this->waiting[$this->id($socket)] .= $bytes;
        $this->flush($socket);
    }

    function has_waiting($socket)
    {
        if (!$socket instanceof Socket || $socket === $this->master) return false;
        return ($this->waiting[$this->id($socket)] ?? '') !== '';
    }

    function flush($socket)
    {
        if (!$this->has_waiting($socket)) return;
        $id = $this->id($socket);
        $sent = @socket_write($socket, $this->waiting[$id], min(65536, strlen($this->waiting[$id])));
        if ($sent) $this->waiting[$id] = substr($this->waiting[$id], $sent);
    }
}

$words = array_slice($argv, 1);
[$address, $port] = ['127.0.0.1', 4000];
if (count($words) > 1 && ctype_digit($words[1])) {
    [$address, $port] = [array_shift($words), (int) array_shift($words)];
}
$faults = $words;
if (array_diff($faults, array_keys(FAULTS))) {
    fwrite(STDERR, "usage: php tests/demo.php [ADDRESS PORT] [FAULT...]\n");
    foreach (FAULTS as $name => $what) fprintf(STDERR, "  %-12s %s\n", $name, $what);
    exit(2);
}
new WS($address, $port);
